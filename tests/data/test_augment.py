import math

import pytest
import torch
from torch.nn import functional as F

from hf_abkd.data.augment import (
    CROP_ATTEMPTS,
    Compose,
    RandomCrop,
    RandomHorizontalFlip,
    RandomResizedCrop,
    augmentation_name,
)
from hf_abkd.data.draws import Draws

AUGMENTATIONS = [
    RandomCrop(padding=3),
    RandomResizedCrop(),
    RandomResizedCrop(size=(5, 7), scale=(0.2, 0.9)),
    RandomHorizontalFlip(),
    Compose([RandomCrop(padding=2), RandomHorizontalFlip(), RandomResizedCrop(size=6)]),
]


def draws(count, seed=0):
    return Draws.of_batch(count, seed)


def random_images(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1234), dtype=torch.float64).to(dtype)


@pytest.fixture(params=AUGMENTATIONS, ids=repr)
def augmentation(request):
    return request.param


# What holds for every augmentation


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_view_has_the_type_and_the_layout_of_the_batch(augmentation, dtype):
    """A float32 view of a bfloat16 batch fails in the first layer, or doubles its memory under autocast."""
    images = random_images(6, 3, 12, 9, dtype=dtype)
    views = augmentation(images, draws(len(images)))
    assert views.dtype == dtype
    assert views.shape[:2] == (6, 3)
    assert views.is_contiguous()
    assert not torch.equal(views, images)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_sees_the_view_of_float32(augmentation, dtype):
    """Crop coordinates computed in bfloat16 are off by pixels, so half precision would train on distorted images."""
    images = random_images(6, 3, 40, 50, dtype=dtype)
    expected = augmentation(images.float(), draws(len(images)))
    torch.testing.assert_close(augmentation(images, draws(len(images))), expected.to(dtype), rtol=0, atol=0)


def test_one_seed_gives_one_view_and_another_seed_another(augmentation):
    """A run that cannot be repeated cannot be compared; one that repeats its views does not augment."""
    images = random_images(8, 3, 12, 9)
    own = draws(8)
    first = augmentation(images, own)
    assert torch.equal(first, augmentation(images, draws(len(images))))
    assert not torch.equal(first, augmentation(images, draws(8, 1)))
    assert not torch.equal(first, augmentation(images, own)), "the next batch would get the same views again"


def test_the_global_generator_is_neither_used_nor_moved(augmentation):
    """Draws from the global state would change dropout, and a resumed run would see other views."""
    images = random_images(4, 3, 12, 9)
    before = torch.random.get_rng_state()
    first = augmentation(images, draws(len(images)))
    assert torch.equal(before, torch.random.get_rng_state())
    torch.rand(3)
    assert torch.equal(first, augmentation(images, draws(len(images))))


def test_an_image_gets_the_same_view_in_a_larger_batch(augmentation):
    """Otherwise changing the batch size changes every view, and two runs cannot be compared image by image."""
    images = random_images(33, 3, 12, 9)
    large = augmentation(images, draws(len(images)))
    for count in (1, 2, 17, 32):
        torch.testing.assert_close(augmentation(images[:count], draws(count)), large[:count], rtol=0, atol=1e-6)


def test_the_batch_itself_is_not_changed(augmentation):
    """Trainer may hand the same tensor to the teacher; it must not be overwritten under it."""
    images = random_images(4, 3, 12, 9)
    copy = images.clone()
    augmentation(images, draws(len(images)))
    assert torch.equal(images, copy)


def test_the_images_of_a_batch_get_different_views(augmentation):
    """One draw per batch instead of one per image would weaken the augmentation without a sign of it."""
    images = random_images(1, 3, 12, 9).expand(16, -1, -1, -1)
    assert len({tuple(view.flatten().tolist()) for view in augmentation(images, draws(len(images)))}) > 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_device_gives_the_views_of_the_cpu_and_is_not_waited_for(augmentation):
    """Numbers drawn on the device would differ between machines; waiting for it in each step costs throughput."""
    images = random_images(8, 3, 12, 9)
    on_device = images.cuda()
    own, other = (Draws(draws(8).keys.cuda()) for _ in range(2))
    augmentation(on_device, own)
    torch.cuda.set_sync_debug_mode("error")
    try:
        views = augmentation(on_device, other)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert views.device == on_device.device
    torch.testing.assert_close(views.cpu(), augmentation(images, draws(len(images))), rtol=0, atol=1e-4)


def test_images_that_are_not_floating_are_refused(augmentation):
    """Bytes would be cropped and then fed to the network unscaled."""
    with pytest.raises(TypeError, match=r"got a tensor of torch\.uint8\. Convert, e\.g\. images\.float\(\) / 255"):
        augmentation(torch.zeros(2, 3, 12, 9, dtype=torch.uint8), draws(2))
    with pytest.raises(TypeError, match="got list"):
        augmentation([torch.zeros(3, 12, 9)], draws(1))


def test_a_single_image_is_refused(augmentation):
    """Three dimensions would be read as a batch of one-channel rows."""
    with pytest.raises(ValueError, match=r"\(3, 12, 9\).*images\[None\]"):
        augmentation(torch.zeros(3, 12, 9), draws(3))


def test_draws_of_as_many_images_are_required(augmentation):
    """None would mean the global state, and with it runs that cannot be repeated."""
    with pytest.raises(TypeError, match="Draws, got NoneType"):
        augmentation(torch.zeros(2, 3, 12, 9), None)
    with pytest.raises(ValueError, match="the draws of 3 images on cpu for 2 images"):
        augmentation(torch.zeros(2, 3, 12, 9), draws(3))


def test_an_image_gets_the_same_view_wherever_it_lies_in_a_batch(augmentation):
    """A cached teacher saw it in another batch: with another view its targets would belong to another picture."""
    images, samples = random_images(9, 3, 12, 9), torch.arange(9) * 1_000_003 - 4
    order = torch.tensor([4, 0, 8, 2, 7])
    views = augmentation(images, Draws.of_views(7, samples, 2))
    again = augmentation(images[order], Draws.of_views(7, samples[order], 2))
    torch.testing.assert_close(again, views[order], rtol=0, atol=1e-6)
    assert not torch.equal(views, augmentation(images, Draws.of_views(7, samples, 3)))
    assert not torch.equal(views, augmentation(images, Draws.of_views(8, samples, 2)))


# Crop


@pytest.mark.parametrize(("height", "width", "padding"), [(8, 8, 4), (7, 11, 3), (11, 7, 6), (5, 6, 1)])
def test_random_crop_equals_padding_and_cutting_each_image(height, width, padding):
    """Rows and columns swapped, or a wrong rim, would train on other pictures than the recipe says."""
    images = random_images(20, 3, height, width)
    offsets = draws(20).below(2 * padding + 1, 2)
    expected = []
    for image, (top, left) in zip(images, offsets.tolist(), strict=True):
        padded = F.pad(image[None], [padding] * 4, mode="reflect")[0]
        expected.append(padded[:, top : top + height, left : left + width])
    assert torch.equal(RandomCrop(padding=padding)(images, draws(len(images))), torch.stack(expected))


def test_random_crop_without_padding_changes_nothing():
    """Padding 0 is how the augmentation is switched off in a comparison."""
    images = random_images(4, 3, 6, 5)
    assert torch.equal(RandomCrop(padding=0)(images, draws(len(images))), images)


def test_random_crop_reaches_every_offset_about_equally():
    """An offset that never occurs, most often the last one, shifts the training images to one side."""
    padding, count = 2, 5000
    row = torch.arange(16.0)
    images = (row[:, None] * 100 + row).expand(count, 1, 16, 16)
    corner = RandomCrop(padding=padding)(images, draws(len(images)))[:, 0, 8, 8]
    top, left = corner.div(100, rounding_mode="floor"), corner.remainder(100)
    # At row 8 a shift by `offset - padding` shows row 8 + offset - padding.
    offsets = torch.stack([top, left], 1) - 8 + padding
    pairs, counts = offsets.unique(dim=0, return_counts=True)
    assert len(pairs) == (2 * padding + 1) ** 2
    assert offsets.min() == 0
    assert offsets.max() == 2 * padding
    expected = count / 25
    assert (counts - expected).abs().max() < 5 * math.sqrt(expected)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4)])
def test_random_crop_refuses_a_padding_as_large_as_the_image(shape):
    """A reflection has no further pixels there; torch's own error names neither the class nor the remedy."""
    images = random_images(2, 3, *shape)
    with pytest.raises(ValueError, match="Use a padding of at most 3"):
        RandomCrop(padding=4)(images, draws(len(images)))
    assert RandomCrop(padding=3)(images, draws(len(images))).shape == images.shape


def test_random_crop_refuses_paddings_that_are_no_count_of_pixels():
    """-1 or 1.5 would otherwise fail in the middle of the first step."""
    with pytest.raises(ValueError, match="padding must be a whole number, 0 or more, got -1"):
        RandomCrop(padding=-1)
    with pytest.raises(ValueError, match="padding must be a whole number, 0 or more, got 1.5"):
        RandomCrop(padding=1.5)


def test_random_crop_takes_a_share_of_the_shorter_side():
    """A padding in pixels that suits 32 pixels shifts nothing that can be seen at 224."""
    images = torch.rand(4, 3, 16, 24)
    same = RandomCrop(padding=2)(images, draws(4))
    assert torch.equal(RandomCrop(padding=0.125)(images, draws(4)), same) and not torch.equal(same, images)


# Resized crop


def draw_box(row, height, width, scale, ratio):
    """One box (top, left, height, width) by the usual definition, attempt after attempt, and whether one fitted."""
    for attempt in range(CROP_ATTEMPTS):
        area = height * width * (scale[0] + row[attempt] * (scale[1] - scale[0]))
        low, high = math.log(ratio[0]), math.log(ratio[1])
        aspect = math.exp(low + row[CROP_ATTEMPTS + attempt] * (high - low))
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = math.floor(row[-2] * (height - box_height + 1))
            left = math.floor(row[-1] * (width - box_width + 1))
            return (top, left, box_height, box_width), True
    box_height, box_width = height, width
    if width / height < ratio[0]:
        box_height = round(width / ratio[0])
    elif width / height > ratio[1]:
        box_width = round(height * ratio[1])
    return ((height - box_height) // 2, (width - box_width) // 2, box_height, box_width), False


@pytest.mark.parametrize(
    ("height", "width", "size", "scale", "ratio"),
    [
        (16, 16, None, (0.08, 1.0), (3 / 4, 4 / 3)),
        (20, 13, None, (0.3, 0.9), (3 / 4, 4 / 3)),
        (13, 30, (9, 11), (0.08, 1.0), (0.5, 2.0)),
        (24, 24, 40, (0.05, 0.3), (1.0, 1.0)),
        (6, 30, 8, (0.5, 1.0), (3 / 4, 4 / 3)),
        (30, 6, 8, (0.5, 1.0), (3 / 4, 4 / 3)),
        (64, 48, 1, (0.08, 1.0), (3 / 4, 4 / 3)),
    ],
)
def test_random_resized_crop_equals_cutting_and_interpolating_each_image(height, width, size, scale, ratio):
    """A grid half a pixel off, or one that mixes in pixels beside the box, shifts every training image."""
    images = random_images(24, 3, height, width)
    rows = draws(24).uniform(2 * CROP_ATTEMPTS + 2).tolist()
    out = (size, size) if isinstance(size, int) else size or (height, width)
    expected, boxes, fitted = [], set(), []
    for image, row in zip(images, rows, strict=True):
        (top, left, box_height, box_width), fits = draw_box(row, height, width, scale, ratio)
        boxes.add((top, left, box_height, box_width))
        fitted.append(fits)
        cut = image[None, :, top : top + box_height, left : left + box_width]
        expected.append(F.interpolate(cut, size=out, mode="bilinear", align_corners=False)[0])
    views = RandomResizedCrop(size=size, scale=scale, ratio=ratio)(images, draws(len(images)))
    assert views.shape == (24, 3, *out)
    torch.testing.assert_close(views, torch.stack(expected), rtol=0, atol=1e-4)
    # Guards the cases above: long images have no fitting box, the others must not all be the same.
    assert (len(boxes) > 10 and all(fitted)) if max(height, width) < 5 * min(height, width) else not any(fitted)


def test_random_resized_crop_takes_the_centre_only_for_images_without_a_fitting_box():
    """Within one batch some images find a box and some do not; a batch-wide choice would centre all of them."""
    height, width, scale, ratio = 10, 26, (0.4, 1.0), (3 / 4, 4 / 3)
    images = random_images(40, 1, height, width)
    rows = draws(40).uniform(2 * CROP_ATTEMPTS + 2).tolist()
    views = RandomResizedCrop(size=6, scale=scale, ratio=ratio)(images, draws(len(images)))
    fitted = []
    for image, view, row in zip(images, views, rows, strict=True):
        (top, left, box_height, box_width), fits = draw_box(row, height, width, scale, ratio)
        fitted.append(fits)
        cut = image[None, :, top : top + box_height, left : left + box_width]
        torch.testing.assert_close(view[None], F.interpolate(cut, size=6, mode="bilinear"), rtol=0, atol=1e-4)
    assert 0 < sum(fitted) < len(fitted)


@pytest.mark.parametrize(
    ("height", "width", "atol"), [(16, 16, 1e-5), (9, 14, 1e-5), (14, 9, 1e-5), (32, 32, 1e-5), (224, 160, 1e-4)]
)
def test_random_resized_crop_of_the_whole_image_changes_nothing(height, width, atol):
    """Full scale is how the augmentation is switched off in a comparison."""
    images = random_images(4, 3, height, width)
    crop = RandomResizedCrop(scale=(1, 1), ratio=(width / height, width / height))
    torch.testing.assert_close(crop(images, draws(len(images))), images, rtol=0, atol=atol)


def test_random_resized_crop_covers_the_scales_the_ratios_and_the_whole_image():
    """Boxes that never touch the last row, or scales drawn from half the range, weaken the augmentation unseen."""
    side, count = 64, 4000
    crop = RandomResizedCrop(scale=(0.1, 0.6), ratio=(0.5, 2.0))
    top, left, height, width = crop._draw_boxes(side, side, draws(count)).unbind(1)
    share, ratio = height * width / side**2, width / height
    assert 0.09 < share.min() < 0.11
    assert 0.59 < share.max() < 0.61
    assert abs(share.mean() - 0.35) < 0.01
    assert 0.47 < ratio.min() < 0.53
    assert 1.9 < ratio.max() < 2.15
    assert abs(ratio.log().mean()) < 0.05
    for start, length in ((top, height), (left, width)):
        assert start.min() == 0
        assert (start + length).max() == side
        assert abs((start / (side - length + 1e-9)).clamp(max=1).mean() - 0.5) < 0.02


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"size": 0}, ValueError, "size must be a whole number, 1 or more"),
        ({"size": (4, -1)}, ValueError, "size must be a whole number, 1 or more"),
        ({"size": 4.5}, ValueError, "size must be a whole number"),
        ({"size": (4, 4, 4)}, TypeError, "size must be a whole number, a pair"),
        ({"scale": (0.0, 1.0)}, ValueError, "scale must be"),
        ({"scale": (0.9, 0.1)}, ValueError, "scale must be"),
        ({"scale": (0.5, 1.5)}, ValueError, "scale must be"),
        ({"ratio": (2.0, 1.0)}, ValueError, "ratio must be"),
        ({"ratio": (0.0, 1.0)}, ValueError, "ratio must be"),
        ({"ratio": (1.0, math.inf)}, ValueError, "ratio must be"),
        ({"ratio": (math.nan, 1.0)}, ValueError, "ratio must be"),
    ],
)
def test_random_resized_crop_refuses_settings_without_a_meaning(settings, error, message):
    """They would give empty boxes or NaN coordinates, and with them grey images instead of an error."""
    with pytest.raises(error, match=message):
        RandomResizedCrop(**settings)


# Flip


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_random_flip_equals_mirroring_each_drawn_image(probability):
    """Mirroring top to bottom, or the batch instead of the image, would train on wrong pictures."""
    images = random_images(50, 3, 5, 8)
    mirrored = [draw < probability for [draw] in draws(50).uniform(1).tolist()]
    expected = [image[:, :, list(reversed(range(8)))] if flip else image for image, flip in zip(images, mirrored)]  # noqa: B905
    assert torch.equal(RandomHorizontalFlip(probability=probability)(images, draws(len(images))), torch.stack(expected))
    assert {0.0: {False}, 0.3: {False, True}, 1.0: {True}}[probability] == set(mirrored)


def test_random_flip_mirrors_the_asked_share():
    """A probability applied the wrong way round would go unnoticed at one half."""
    images = torch.tensor([0.0, 1.0]).expand(10_000, 1, 1, 2)
    share = RandomHorizontalFlip(probability=0.2)(images, draws(len(images)))[:, 0, 0, 0].mean()
    assert abs(share - 0.2) < 0.02


@pytest.mark.parametrize("probability", [-0.1, 1.1, math.nan, 50])
def test_random_flip_refuses_what_is_no_probability(probability):
    """50 meant as per cent would mirror every image."""
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        RandomHorizontalFlip(probability=probability)


# Compose


def test_compose_applies_its_parts_in_order():
    """Flip then crop and crop then flip are different views of an image for the same numbers."""
    images = random_images(8, 3, 9, 9)
    parts = [RandomHorizontalFlip(probability=1.0), RandomCrop(padding=2)]
    expected = parts[1](images.flip(-1), draws(8).split(2)[1])
    assert torch.equal(Compose(parts)(images, draws(len(images))), expected)
    assert not torch.equal(Compose(parts[::-1])(images, draws(len(images))), expected)


def test_compose_gives_equal_parts_different_numbers():
    """With one shared seed two flips would always cancel."""
    images = random_images(64, 1, 4, 4)
    assert not torch.equal(
        Compose([RandomHorizontalFlip(), RandomHorizontalFlip()])(images, draws(len(images))), images
    )


def test_compose_takes_any_callable_of_images_and_draws():
    """A user's own augmentation must not need a base class."""
    images = random_images(2, 3, 4, 4)
    brighter = Compose([lambda images, draws: images + draws.uniform(1)[:, :, None, None] + 0.01])
    assert (brighter(images, draws(len(images))) > images).all()


def test_compose_refuses_what_it_cannot_call():
    """A class that was not instantiated would fail only in the first training step."""
    with pytest.raises(TypeError, match=r"Augmentation 1 is .*RandomCrop"):
        Compose([RandomHorizontalFlip(), RandomCrop])
    with pytest.raises(TypeError, match="Augmentation 0 is 'flip'"):
        Compose(["flip"])
    with pytest.raises(ValueError, match="at least one"):
        Compose([])


def test_repr_tells_all_settings():
    """Logs and model cards print it; a run can only be repeated from complete settings."""
    pipeline = Compose([RandomCrop(padding=2), RandomResizedCrop(size=8), RandomHorizontalFlip(probability=0.25)])
    assert repr(pipeline) == (
        "Compose([RandomCrop(padding=2), RandomResizedCrop(size=(8, 8), scale=(0.08, 1.0), ratio=(0.75, "
        "1.3333333333333333)), RandomHorizontalFlip(probability=0.25)])"
    )
    assert repr(eval(repr(pipeline))) == repr(pipeline)


def nothing(images, draws):
    return images


def test_an_augmentation_is_known_by_a_name_that_tells_its_settings():
    """A cache is refused for another augmentation: an address in memory would refuse every run, or none."""
    assert augmentation_name(None) == "none"
    assert augmentation_name(nothing) == "nothing"
    assert augmentation_name(RandomCrop(padding=2)) == "RandomCrop(padding=2)"
    for unnamed in (object(), lambda images, draws: images, Compose([lambda images, draws: images])):
        with pytest.raises(ValueError, match="does not tell its settings"):
            augmentation_name(unnamed)
