import numpy as np
import pytest
import torch
from processors import BICUBIC, BILINEAR, LANCZOS, NEAREST, bgr, grey, offset, square, vit
from transformers import (
    BitImageProcessorPil,
    CLIPImageProcessorPil,
    ConvNextImageProcessorPil,
    MobileViTImageProcessorPil,
    Siglip2ImageProcessorPil,
    ViTImageProcessorPil,
)

from hf_abkd.data.preprocessing import Preprocessing, same_preprocessing
from hf_abkd.data.shared_images import SharedImages

# Measuring -----------------------------------------------------------------------------------------------------------


def test_a_measurement_has_the_rescaling_and_normalisation_of_the_processor():
    """A teacher that reads colours it was not trained on teaches noise."""
    preprocessing = Preprocessing.measured(vit())
    assert (preprocessing.size, preprocessing.channels, preprocessing.interpolation) == ((24, 24), 3, "bilinear")
    expected = torch.tensor([1 / 0.2, 1 / 0.3, 1 / 0.25]).diag() / 255
    torch.testing.assert_close(torch.tensor(preprocessing.matrix), expected, atol=1e-8, rtol=1e-5)
    torch.testing.assert_close(torch.tensor(preprocessing.offset), torch.tensor([-0.5 / 0.2, -0.4 / 0.3, -0.3 / 0.25]))


def test_a_measurement_has_the_channel_order_of_the_processor():
    """MobileViT reads BGR: its settings alone would give it red for blue."""
    preprocessing = Preprocessing.measured(bgr())
    torch.testing.assert_close(torch.tensor(preprocessing.matrix) * 255, torch.eye(3).flip(0))
    assert (preprocessing.offset, preprocessing.interpolation) == ((0.0, 0.0, 0.0), "bicubic")


def test_a_measurement_has_the_offset_of_the_processor():
    """EfficientNet's colours follow from four settings that others do not have."""
    preprocessing = Preprocessing.measured(offset())
    torch.testing.assert_close(torch.tensor(preprocessing.matrix), torch.eye(3) / 127.5 / 0.5 / 0.5)
    torch.testing.assert_close(torch.tensor(preprocessing.offset), torch.full((3,), (-1 - 0.5) / 0.5 / 0.5))


@pytest.mark.parametrize(
    ("resample", "interpolation"),
    [(NEAREST, "bilinear"), (BILINEAR, "bilinear"), (BICUBIC, "bicubic"), (LANCZOS, "bicubic")],
)
def test_images_are_resized_as_the_processor_resizes(resample, interpolation):
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
