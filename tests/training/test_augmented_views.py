"""Which view of an image an epoch shows."""

import pytest
import torch

from hf_abkd import knowledge_distillation
from hf_abkd.data.augment import Compose, RandomCrop
from hf_abkd.data.mixing import CutMix
from hf_abkd.training.augmented_views import AugmentedViews, check_labels_hold

IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
IDS = torch.tensor([11, 22, 33, 44])


def views(number=None, process=0, seed=1):
    return AugmentedViews(RandomCrop(padding=3), seed=seed, number=number, process=process)


def test_images_with_ids_have_one_view_per_epoch_wherever_they_stand():
    """A teacher that was cached in another order must have seen the student's view."""
    shown = views()
    shown.begin_epoch(3)
    straight = shown.augmented(IMAGES, IDS, step=7, micro_batch=0)
    turned = shown.augmented(IMAGES.flip(0), IDS.flip(0), step=90, micro_batch=1).flip(0)
    assert torch.equal(straight, turned)
    shown.begin_epoch(4)
    assert not torch.equal(straight, shown.augmented(IMAGES, IDS, step=7, micro_batch=0))


@pytest.mark.parametrize(("number", "current"), [(None, 5), (2, 1), (5, 0)])
def test_views_take_turns(number, current):
    """Of a cache with two views a third does not exist."""
    shown = views(number)
    shown.begin_epoch(5)
    assert int(shown.current) == current and shown.current.is_shared()


def test_images_without_ids_differ_by_process_step_and_micro_batch():
    """The same crop in every process would halve the augmentation, and in every step end it."""
    shown = [
        views(process=process).augmented(IMAGES, None, step=step, micro_batch=micro)
        for process, step, micro in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    ]
    assert all(not torch.equal(shown[0], other) for other in shown[1:])
    assert torch.equal(shown[0], views().augmented(IMAGES, None, step=0, micro_batch=0))


def test_without_an_augmentation_images_are_not_touched():
    """A copy would cost memory in every step."""
    plain = AugmentedViews(None, seed=0, number=None, process=0)
    assert plain.augmented(IMAGES, IDS, step=0, micro_batch=0) is IMAGES


def test_labels_are_not_compared_with_where_images_lie_over_each_other():
    """Half of an image would be of another class than its label says, and nothing would tell."""
    mixing = Compose([RandomCrop(padding=3), CutMix()])
    labelled = knowledge_distillation()
    with pytest.raises(ValueError, match=r"CutMix.* lays images .* term 'cross_entropy' .*label_weight=0"):
        check_labels_hold(mixing, labelled)
    check_labels_hold(mixing, knowledge_distillation(label_weight=0))
    check_labels_hold(RandomCrop(padding=3), labelled)
