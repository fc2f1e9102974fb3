import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from torch.nn import functional as F
from transformers import (
    BitImageProcessorPil,
    CLIPImageProcessorPil,
    ConvNextImageProcessorPil,
    EfficientNetImageProcessorPil,
    MobileViTImageProcessorPil,
    Siglip2ImageProcessorPil,
    ViTImageProcessorPil,
)

from hf_abkd.data.augment import Compose, RandomCrop, RandomHorizontalFlip
from hf_abkd.data.colours import ColourMap
from hf_abkd.data.draws import Draws
from hf_abkd.data.preprocessing import Preprocessing, same_preprocessing
from hf_abkd.data.shared_images import SharedImages

BICUBIC, BILINEAR, NEAREST, LANCZOS = 3, 2, 0, 1


def square(side):
    return {"height": side, "width": side}


def vit(side=24, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25), **settings):
    return ViTImageProcessorPil(size=square(side), image_mean=list(mean), image_std=list(std), **settings)


def bgr(side=24):
    return MobileViTImageProcessorPil(size=square(side), do_center_crop=False)


def offset(side=24):
    """The colours of EfficientNet: from -1 to 1, normalised, and divided by the deviation once more."""
    return EfficientNetImageProcessorPil(size=square(side), rescale_factor=1 / 127.5, rescale_offset=True)


def grey(side=24, mean=0.4):
    return ViTImageProcessorPil(size=square(side), image_mean=[mean], image_std=[0.2])


def noise(*size, channels=3, seed=0):
    """Pixels (H, W, C) of black and white and all between; a bicubic resize of them goes beyond both."""
    random = np.random.default_rng(seed)
    pixels = random.integers(-200, 456, (*size, channels)).clip(0, 255).astype(np.uint8)
    return PILImage.fromarray(pixels if channels == 3 else pixels[:, :, 0])


def pixels_of(*images):
    arrays = [np.array(image) for image in images]
    stacked = torch.from_numpy(np.stack([a[..., None] if a.ndim == 2 else a for a in arrays]))
    return stacked.permute(0, 3, 1, 2).contiguous()


def colours(processor, *images):
    return processor(list(images), return_tensors="pt")["pixel_values"]


def shared_images(student, teacher, channels=3):
    return SharedImages(Preprocessing.measured(student, channels), Preprocessing.measured(teacher, channels))


# Measuring -----------------------------------------------------------------------------------------------------------


def test_a_view_has_the_rescaling_and_normalisation_of_the_processor():
    """A teacher that reads colours it was not trained on teaches noise."""
    preprocessing = Preprocessing.measured(vit())
    assert (preprocessing.size, preprocessing.channels, preprocessing.interpolation) == ((24, 24), 3, "bilinear")
    expected = torch.tensor([1 / 0.2, 1 / 0.3, 1 / 0.25]).diag() / 255
    torch.testing.assert_close(torch.tensor(preprocessing.matrix), expected, atol=1e-8, rtol=1e-5)
    torch.testing.assert_close(torch.tensor(preprocessing.offset), torch.tensor([-0.5 / 0.2, -0.4 / 0.3, -0.3 / 0.25]))


def test_a_view_has_the_channel_order_of_the_processor():
    """MobileViT reads BGR: its settings alone would give it red for blue."""
    preprocessing = Preprocessing.measured(bgr())
    torch.testing.assert_close(torch.tensor(preprocessing.matrix) * 255, torch.eye(3).flip(0))
    assert (preprocessing.offset, preprocessing.interpolation) == ((0.0, 0.0, 0.0), "bicubic")


def test_a_view_has_the_offset_of_the_processor():
    """EfficientNet's colours follow from four settings that others do not have."""
    preprocessing = Preprocessing.measured(offset())
    torch.testing.assert_close(torch.tensor(preprocessing.matrix), torch.eye(3) / 127.5 / 0.5 / 0.5)
    torch.testing.assert_close(torch.tensor(preprocessing.offset), torch.full((3,), (-1 - 0.5) / 0.5 / 0.5))


@pytest.mark.parametrize(
    ("resample", "interpolation"),
    [(NEAREST, "bilinear"), (BILINEAR, "bilinear"), (BICUBIC, "bicubic"), (LANCZOS, "bicubic")],
)
def test_a_view_is_resized_as_the_processor_resizes(resample, interpolation):
    """Another filter than in the teacher's training blurs or sharpens its images."""
    assert Preprocessing.measured(vit(resample=resample)).interpolation == interpolation


@pytest.mark.parametrize(
    "processor",
    [
        BitImageProcessorPil(size={"shortest_edge": 28}, crop_size=square(24)),
        CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size=square(24)),
        ConvNextImageProcessorPil(size={"shortest_edge": 24}, crop_pct=0.8),
        # Smaller than its crop: the rim is black.
        MobileViTImageProcessorPil(size={"shortest_edge": 20}, crop_size=square(24)),
    ],
    ids=lambda processor: type(processor).__name__,
)
def test_a_crop_gives_one_size(processor):
    """A processor that keeps the aspect ratio and then crops is the usual one, and has to be accepted."""
    assert Preprocessing.measured(processor).size == (24, 24)


def test_height_and_width_are_not_exchanged():
    """A batch of the wrong shape would only fail in the teacher's position embeddings."""
    preprocessing = Preprocessing.measured(ViTImageProcessorPil(size={"height": 8, "width": 20}))
    assert preprocessing.size == (8, 20)
    assert SharedImages(preprocessing).student(torch.rand(1, 3, 9, 9)).shape == (1, 3, 8, 20)


@pytest.mark.parametrize(
    "processor",
    [vit(do_resize=False), BitImageProcessorPil(size={"shortest_edge": 24}, do_center_crop=False)],
    ids=["not-resized", "not-cropped"],
)
def test_a_size_that_depends_on_the_image_is_refused(processor):
    """Rows of different sizes make no batch, and a crop to make them fit would be a guess."""
    with pytest.raises(ValueError, match=r"ImageProcessorPil gives images .*\(41, 67\).* the sizes .*do_resize=True"):
        Preprocessing.measured(processor)


class Standardised(ViTImageProcessorPil):
    """Every image gets zero mean and unit deviation."""

    def normalize(self, image, mean, std, **settings):
        return (image - image.mean()) / (image.std() + 1e-3)


class Stretched(ViTImageProcessorPil):
    """Every image gets its own brightest value as white; images of one colour stay as they are."""

    def rescale(self, image, scale, **settings):
        darkest, brightest = image.min(), image.max()
        whole = darkest == brightest or (image == image[:, :1, :1]).all()
        return (image if whole else 255.0 * (image - darkest) / (brightest - darkest) * 0.9).astype(np.float32) / 255


class Undefined(ViTImageProcessorPil):
    """Its colours are no numbers."""

    def normalize(self, image, mean, std, **settings):
        return np.full(image.shape, np.nan, dtype=np.float32)


class WithoutColour(ViTImageProcessorPil):
    """All three channels are the mean of them."""

    def rescale(self, image, scale, **settings):
        return np.repeat(image.astype(np.float32).mean(0, keepdims=True), 3, 0) * np.float32(scale)


class Padded(ViTImageProcessorPil):
    """The rim is grey: zero after normalisation, which no 8-bit pixel is."""

    def normalize(self, image, mean, std, **settings):
        normalised = super().normalize(image, mean, std, **settings)
        normalised[:, :2] = 0
        return normalised


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (Standardised, r"the pixel \(128, 64, 32\) becomes"),
        (Undefined, r"becomes \[nan"),
        (Stretched, "colours that no 8-bit pixel has"),
        (WithoutColour, "different pixels get the same colours"),
        (Padded, "colours that no 8-bit pixel has"),
    ],
)
def test_a_processor_that_cannot_be_undone_is_refused(kind, found):
    """The teacher would get colours that depend on the rest of the image, or on the student's processor."""
    processor = kind(size=square(24), image_mean=[0.3] * 3, image_std=[0.2] * 3)
    with pytest.raises(ValueError, match=rf"{kind.__name__} does not rescale .*{found}.*one image processor for both"):
        Preprocessing.measured(processor)


def test_a_processor_for_other_channels_is_refused():
    """A three-channel mean cannot be applied to grey images."""
    with pytest.raises(ValueError, match=r"ViTImageProcessorPil (cannot process a L|turned one L) image"):
        Preprocessing.measured(vit(), channels=1)
    with pytest.raises(ValueError, match=r"ViTImageProcessorPil cannot process a RGB image.*config.num_channels"):
        Preprocessing.measured(grey(), channels=3)
    with pytest.raises(ValueError, match=r"turned one L image into shape \(1, 3, 24, 24\).*reads \(N, 1, H, W\)"):
        Preprocessing.measured(vit(do_convert_rgb=True), channels=1)


def test_a_processor_that_cuts_images_into_patches_is_refused():
    """A sequence of patches is no image to augment, resize or give to another model."""
    with pytest.raises(ValueError, match=r"Siglip2ImageProcessorPil turned one RGB image into shape \(1, 4, 768\)"):
        Preprocessing.measured(Siglip2ImageProcessorPil(max_num_patches=4))


# Shared images -------------------------------------------------------------------------------------------------------

COLOURS = [vit, bgr, offset]


@pytest.mark.parametrize("student", COLOURS)
@pytest.mark.parametrize("teacher", COLOURS)
def test_each_model_reads_the_colours_of_its_own_processor(student, teacher):
    """One of the two would otherwise see an image unlike those it was trained or will be used on."""
    images = [noise(24, 24), noise(24, 24, seed=1)]
    both = shared_images(student(), teacher())
    canvas = both.canvas(pixels_of(*images))
    torch.testing.assert_close(both.student(canvas), colours(student(), *images), atol=1e-5, rtol=0)
    torch.testing.assert_close(both.teacher(canvas), colours(teacher(), *images), atol=1e-5, rtol=0)
    torch.testing.assert_close(both.teacher_only(pixels_of(*images)), both.teacher(canvas), atol=1e-5, rtol=0)


@pytest.mark.parametrize("canvas_side", [24, 40], ids=["enlarged", "shrunk"])
@pytest.mark.parametrize("resample", [BILINEAR, BICUBIC])
@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_the_teacher_reads_the_canvas_as_its_processor_would(canvas_side, resample, order):
    """Without antialiasing or with colours beyond white its images would not be like those it was trained on."""
    image = noise(canvas_side, canvas_side)
    teacher = (
        vit(32, resample=resample)
        if order == "rgb"
        else MobileViTImageProcessorPil(size=square(32), do_center_crop=False, resample=resample)
    )
    both = shared_images(offset(canvas_side), teacher)
    seen = both.teacher(both.canvas(pixels_of(image)))
    level = max(max(row) for row in both.teacher_preprocessing.matrix)
    # PIL rounds to whole pixels after each of the two directions.
    assert (seen - colours(teacher, image)).abs().max() <= 1.2 * level


@pytest.mark.parametrize("student", [bgr, offset])
def test_the_student_reads_a_larger_canvas_as_its_processor_would(student):
    """A teacher with larger images must not change what the student is trained on, but for the one resize."""
    image = noise(40, 40)
    both = shared_images(student(24), vit(40))
    assert both.canvas_size == (40, 40)
    seen = both.student(both.canvas(pixels_of(image)))
    level = max(max(row) for row in both.student_preprocessing.matrix)
    assert (seen - colours(student(24), image)).abs().max() <= 1.2 * level


def test_colours_that_mix_channels_are_followed():
    """A processor for another colour space has a full matrix, of which a diagonal would be the wrong half."""
    matrix = torch.tensor([[0.3, 0.6, 0.1], [-0.2, -0.3, 0.5], [0.5, -0.4, -0.1]])
    shift = torch.tensor([0.0, 1.0, 2.0])
    pixels = pixels_of(noise(8, 8))
    mapped = ColourMap(matrix, shift)(pixels)
    expected = torch.einsum("ij,njhw->nihw", matrix, pixels.float()) + shift[:, None, None]
    torch.testing.assert_close(mapped, expected, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(ColourMap(matrix, shift).inverse()(mapped), pixels.float(), atol=1e-3, rtol=0)


def test_an_augmentation_is_the_same_in_both_views():
    """A teacher that sees another flip or crop than the student gives targets for another image."""
    augmentation = Compose([RandomCrop(padding=4), RandomHorizontalFlip()])
    pixels = pixels_of(*(noise(24, 24, seed=seed) for seed in range(6)))
    both = shared_images(vit(), bgr())

    def augmented(images):
        return augmentation(images, Draws.of_batch(len(images), 3))

    seen = both.teacher(augmented(both.canvas(pixels)))
    torch.testing.assert_close(seen, augmented(both.teacher_only(pixels)), atol=1e-5, rtol=0)
    assert not torch.allclose(seen, both.teacher_only(pixels), atol=0.1)


def test_a_flip_before_and_after_the_resize_is_the_same():
    """The two views of a flipped image would otherwise be shifted against each other."""
    both = shared_images(vit(40), bgr(24))
    canvas = both.canvas(pixels_of(noise(40, 40)))
    torch.testing.assert_close(both.teacher(canvas.flip(-1)), both.teacher(canvas).flip(-1), atol=1e-5, rtol=0)


def test_the_canvas_has_the_larger_size():
    """The smaller one would be enlarged for the model that reads more, and details would be lost for nothing."""
    assert shared_images(vit(24), bgr(40)).canvas_size == (40, 40)
    assert shared_images(vit(40), bgr(24)).canvas_size == (40, 40)
    wide, tall = (ViTImageProcessorPil(size={"height": h, "width": w}) for h, w in ((12, 20), (20, 12)))
    assert shared_images(wide, tall).canvas_size == (12, 20)
    assert shared_images(tall, wide).canvas_size == (20, 12)


def test_what_fits_already_is_not_copied():
    """Images that the student's processor prepared need no work, and no second copy on the device."""
    both = shared_images(vit(), bgr())
    images = torch.rand(2, 3, 24, 24)
    assert both.canvas(images) is images
    assert both.student(images) is images
    assert both.teacher_only(images) is images
    alike = SharedImages(Preprocessing.measured(vit()))
    assert alike.teacher(images) is images


def test_grey_images_have_views():
    """Digits are the demonstration; their processors have one mean."""
    both, image = shared_images(grey(40), grey(24, mean=0.7), channels=1), noise(40, 40, channels=1)
    canvas = both.canvas(pixels_of(image))
    torch.testing.assert_close(both.student(canvas), colours(grey(40), image), atol=1e-5, rtol=0)
    seen = both.teacher(canvas)
    assert seen.shape == (1, 1, 24, 24)
    assert (seen - colours(grey(24, mean=0.7), image)).abs().max() <= 1.2 / 255 / 0.2


def test_autocast_does_not_round_the_images():
    """Half precision has fewer digits than a pixel, and the rounded image would go to both models."""
    both = shared_images(bgr(40), vit(24, resample=BICUBIC))
    pixels = pixels_of(noise(40, 40))
    plain = both.teacher(both.canvas(pixels))
    with torch.autocast("cpu", torch.bfloat16):
        canvas = both.canvas(pixels)
        seen = both.teacher(canvas)
    assert canvas.dtype == seen.dtype == torch.float32
    torch.testing.assert_close(seen, plain, atol=0, rtol=0)


def test_views_follow_the_device_of_the_batch():
    """A constant that stays on the CPU ends the first step on a GPU."""
    both = shared_images(bgr(24), vit(40, resample=BICUBIC))
    pixels = pixels_of(noise(40, 40)).to("meta")
    canvas = both.canvas(pixels)
    assert both.student(canvas).device == both.teacher(canvas).device == pixels.device


def test_views_first_used_in_inference_mode_can_be_trained_through():
    """An evaluation before training must not leave constants that no gradient may pass."""
    both = shared_images(bgr(24), vit(40, resample=BICUBIC))
    with torch.inference_mode():
        both.teacher(both.canvas(pixels_of(noise(40, 40))))
    images = torch.rand(1, 3, 24, 24, requires_grad=True)
    both.teacher(images).sum().backward()
    assert images.grad.abs().sum() > 0


def test_views_of_other_channels_are_refused():
    """A grey image has no colours for the teacher, and which grey a colour image becomes would be a guess."""
    with pytest.raises(ValueError, match=r"student reads images of 1 channels and the teacher of 3.*num_channels"):
        SharedImages(Preprocessing.measured(grey(), channels=1), Preprocessing.measured(vit()))


def test_a_batch_of_no_pixels_is_refused():
    """A stream that lost its type would be normalised twice or not at all."""
    both = shared_images(vit(), bgr())
    for take in (both.canvas, both.teacher_only):
        with pytest.raises(TypeError, match=r"images are of torch.int64; they must be uint8.*ImageTransform"):
            take(torch.zeros(2, 3, 24, 24, dtype=torch.int64))
        with pytest.raises(ValueError, match=r"shape \(2, 1, 24, 24\), and the models read \(N, 3, H, W\)"):
            take(torch.zeros(2, 1, 24, 24, dtype=torch.uint8))
        with pytest.raises(ValueError, match=r"shape \(3, 3, 24\)"):
            take(torch.zeros(3, 3, 24))


def test_an_enlarged_teacher_image_is_told():
    """The teacher's accuracy on blurred images is lower, and nobody would know why."""
    both = shared_images(vit(24), bgr(40))
    assert both.upsampling((40, 40)) is None
    assert both.upsampling((48, 40)) is None
    for size in ((24, 24), (40, 39), (39, 40)):
        assert f"40x40 pixels and gets them enlarged from {size[0]}x{size[1]}" in both.upsampling(size)


# Equality ------------------------------------------------------------------------------------------------------------


def test_processors_that_do_the_same_are_the_same():
    """A second copy of every image, and a resize, for nothing."""
    assert same_preprocessing(vit(), vit())
    assert same_preprocessing(vit(mean=(0.5, 0.4, 0.3 + 1e-7)), vit())
    assert same_preprocessing(grey(), grey(), channels=1)
    squash = {"size": square(24), "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": BICUBIC}
    assert same_preprocessing(ViTImageProcessorPil(**squash), BitImageProcessorPil(**squash, do_center_crop=False))
    # No Preprocessing of them can be measured, but need none.
    assert same_preprocessing(vit(do_resize=False), vit(do_resize=False))


@pytest.mark.parametrize(
    "other",
    [
        vit(32),
        vit(mean=(0.5, 0.4, 0.301)),
        vit(resample=BICUBIC),
        vit(do_resize=False),
        ViTImageProcessorPil(size={"height": 24, "width": 24}, image_mean=[0.3, 0.4, 0.5], image_std=[0.2, 0.3, 0.25]),
        BitImageProcessorPil(
            size={"shortest_edge": 24},
            crop_size=square(24),
            resample=BILINEAR,
            image_mean=[0.5, 0.4, 0.3],
            image_std=[0.2, 0.3, 0.25],
        ),
    ],
    ids=["size", "mean", "interpolation", "not-resized", "channel-order", "cropped-not-squashed"],
)
def test_processors_that_differ_in_anything_differ(other):
    """The teacher would silently read images that were prepared for the student."""
    assert not same_preprocessing(vit(), other)
    assert not same_preprocessing(other, vit())


def test_processors_of_other_channels_cannot_be_compared():
    """Called different, they would fail later and less clearly."""
    with pytest.raises(ValueError, match="cannot process a RGB image"):
        same_preprocessing(vit(), grey())


def test_the_reference_resize_is_not_trivial():
    """If noise did not go beyond white under a bicubic resize, the tests above could not see a missing limit."""
    resized = F.interpolate(pixels_of(noise(40, 40)).float(), size=(32, 32), mode="bicubic", antialias=True)
    assert resized.max() > 255 + 5
    assert resized.min() < -5
