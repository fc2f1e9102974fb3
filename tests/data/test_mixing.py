"""Views that are made of several images of a batch."""

import pytest
import torch

from hf_abkd.data.augment import Compose, RandomHorizontalFlip
from hf_abkd.data.draws import Draws
from hf_abkd.data.mixing import CutMix, mixes

SIDE = 16


def plain(count, dtype=torch.float32):
    """Images that are each of one colour, which is their place in the batch."""
    return torch.arange(count, dtype=dtype).view(-1, 1, 1, 1).expand(count, 3, SIDE, 8).contiguous()


def mixed(images, seed=0, **settings):
    return CutMix(**settings)(images, Draws.of_batch(len(images), seed))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_every_view_is_an_image_with_one_box_of_another(dtype):
    """Pixels that are blended, or a box that is torn apart, would be images that no teacher knows anything of."""
    images = plain(128, dtype)
    views = mixed(images)
    assert (views.dtype, views.shape, views.is_contiguous()) == (dtype, images.shape, True)
    with_box = 0
    for place, view in enumerate(views):
        foreign = view[0] != place
        assert view.unique().numel() <= 2
        rows, columns = foreign.any(1), foreign.any(0)
        assert torch.equal(foreign, rows[:, None] & columns[None, :]), "the box is a box"
        for line in (rows, columns):
            inside = line.nonzero()[:, 0]
            assert not len(inside) or inside[-1] - inside[0] + 1 == len(inside), "and has no gap"
        with_box += bool(foreign.any())
    assert with_box > 110


def test_half_of_the_area_of_a_box_stays_where_half_should():
    """The share of the image that stays is uniform; boxes that stick out leave some more of it."""
    images = plain(4000)
    stays = (mixed(images)[:, 0] == images[:, 0]).float().mean((1, 2))
    assert 0.55 < stays.mean() < 0.75
    assert stays.min() < 0.2 < 0.9 < stays.max()


def test_boxes_and_what_is_in_them_vary_within_a_batch_and_follow_from_the_draws():
    """A resumed run has to see the views of one that was never stopped."""
    images = plain(64)
    first, again, other = mixed(images, seed=1), mixed(images, seed=1), mixed(images, seed=2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    laid_over = {view[view != place].mode().values.item() for place, view in enumerate(first) if (view != place).any()}
    assert len(laid_over) > 25


def test_probability_is_the_share_of_images_that_get_a_box():
    """Zero has to leave the images as they are."""
    images = plain(2000)
    assert torch.equal(mixed(images, probability=0), images)
    changed = (mixed(images, probability=0.5) != images).flatten(1).any(1).float().mean()
    assert 0.42 < changed < 0.52


def test_what_mixes_says_so_within_others_too():
    """Labels would silently be wrong."""
    assert mixes(CutMix())
    assert mixes(Compose([RandomHorizontalFlip(), Compose([CutMix()])]))
    assert not mixes(Compose([RandomHorizontalFlip()]))
    assert not mixes(None)


def test_impossible_settings_and_images_are_refused():
    """As by every augmentation."""
    with pytest.raises(ValueError, match="probability must be in"):
        CutMix(probability=1.5)
    with pytest.raises(TypeError, match="CutMix takes a floating tensor"):
        mixed(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
    assert repr(CutMix(probability=1)) == "CutMix(probability=1)"
