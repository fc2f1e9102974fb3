"""Preprocessing: what an image processor makes of an image, measured on the processor itself.

A processor is taken as it behaves and not as it is configured, so that those with settings of their own (an offset,
BGR) need no case of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor
from transformers import BaseImageProcessor

from hf_abkd.data.colours import ColourMap
from hf_abkd.models.expected_images import PIXELS

# Height and width of the images a processor is measured on. They are no usual size, so that a resize shows.
PROBE_SIZES = ((53, 53), (41, 67), (67, 41))
PROBE_COLOURS = ((128, 64, 32), (10, 200, 90), (250, 5, 130), (255, 255, 255))
# PIL's codes. Lanczos has no counterpart in torch; bicubic is nearest to it.
BICUBIC_CODES = (PILImage.Resampling.BICUBIC, PILImage.Resampling.LANCZOS)


@dataclass(frozen=True)
class Preprocessing:
    """What an image processor makes of an image: its size, and its colours as an affine map of its pixels.

    Args:
        size: Height and width.
        matrix: Rows of a (C, C) matrix that maps a pixel (C numbers from 0 to 255) to colours.
        offset: The colours of a black pixel, C numbers.
        interpolation: How to resize to that size, ``"bilinear"`` or ``"bicubic"``.

    Example:
        >>> from transformers import ViTImageProcessorPil
        >>> preprocessing = Preprocessing.measured(ViTImageProcessorPil(size={"height": 24, "width": 24}))
        >>> preprocessing.size, preprocessing.interpolation
        ((24, 24), 'bilinear')
    """

    size: tuple[int, int]
    matrix: tuple[tuple[float, ...], ...]
    offset: tuple[float, ...]
    interpolation: str = "bilinear"

    @classmethod
    def measured(cls, processor: BaseImageProcessor, channels: int = 3) -> Preprocessing:
        """Return the preprocessing of a processor, from what it makes of a few images.

        Args:
            processor: The image processor of a model.
            channels: 1 for grey or 3 for RGB images.

        Raises:
            ValueError: If the processor takes other channels, the size of what it gives depends on the image, or its
                colours are not an invertible affine map of 8-bit pixels (per-image standardisation is none).
        """
        noise = [processed(processor, image) for image in probes(channels)]
        size = _common_size(processor, noise)
        colour_map = _measured_colours(processor, channels, size)
        back = colour_map.inverse()
        for colours in noise:
            pixels = back(colours.double())
            if not (pixels - pixels.round().clamp(0, 255)).abs().max() <= 0.02:
                raise _not_affine(processor, "of noise it makes colours that no 8-bit pixel has")
        return cls(
            size=size,
            matrix=tuple(tuple(row) for row in colour_map.matrix.tolist()),
            offset=tuple(colour_map.offset.tolist()),
            # Custom processors may have no such setting.
            interpolation="bicubic" if getattr(processor, "resample", None) in BICUBIC_CODES else "bilinear",
        )

    @property
    def channels(self) -> int:
        """The number of channels of an image."""
        return len(self.offset)

    def colour_map(self) -> ColourMap:
        """Return the map from pixels to colours."""
        return ColourMap(torch.tensor(self.matrix, dtype=torch.float64), torch.tensor(self.offset, dtype=torch.float64))


def processed(processor: BaseImageProcessor, image: PILImage.Image) -> Tensor:
    """Return what a processor makes of one grey or RGB image, shape (1, C, H, W).

    Raises:
        ValueError: If the processor does not take the image, or gives another number of channels.
    """
    channels, name = len(image.getbands()), type(processor).__name__
    remedy = (
        f"Use a processor for {channels}-channel images (length of image_mean and image_std, do_convert_rgb), "
        "or a model with another config.num_channels."
    )
    try:
        pixel_values: Tensor = processor([image], return_tensors="pt")[PIXELS]
    except (IndexError, KeyError, TypeError, ValueError) as error:
        # Processors of documents, videos and pairs of images fail in ways of their own.
        raise ValueError(f"{name} cannot process a {image.mode} image: {error!s}. {remedy}") from error
    shape = tuple(pixel_values.shape)
    if len(shape) != 4 or shape[:2] != (1, channels):
        raise ValueError(
            f"{name} turned one {image.mode} image into shape {shape}, "
            f"but the model reads (N, {channels}, H, W). {remedy}"
        )
    return pixel_values


def probes(channels: int) -> list[PILImage.Image]:
    """Return a square, a wide and a tall image of noise, grey or RGB, the same ones every time."""
    generator = np.random.default_rng(0)
    return [noise(size, channels, generator) for size in PROBE_SIZES]


def noise(size: tuple[int, int], channels: int, generator: np.random.Generator) -> PILImage.Image:
    """Return an image of noise of so many pixels (height, width), grey or RGB."""
    return _image(generator.integers(0, 256, (*size, channels), dtype=np.uint8))


def same_preprocessing(student: BaseImageProcessor, teacher: BaseImageProcessor, channels: int = 3) -> bool:
    """Return whether two processors make the same of images: size, crop, interpolation and colours.

    They are compared by what they give, also where no `Preprocessing` could be measured (images that keep their size).

    Args:
        student: The student's processor.
        teacher: The teacher's processor.
        channels: 1 for grey or 3 for RGB images.

    Raises:
        ValueError: If one of them does not take images of that many channels.
    """
    for image in probes(channels):
        ours, theirs = processed(student, image), processed(teacher, image)
        if ours.shape != theirs.shape or not torch.allclose(ours.double(), theirs.double(), rtol=1e-5, atol=1e-5):
            return False
    return True


def _common_size(processor: BaseImageProcessor, processed_probes: Sequence[Tensor]) -> tuple[int, int]:
    sizes = [(images.shape[-2], images.shape[-1]) for images in processed_probes]
    if len(set(sizes)) > 1:
        raise ValueError(
            f"{type(processor).__name__} gives images of (height, width) {PROBE_SIZES} the sizes {tuple(sizes)}; "
            "only images of one fixed size are shared by teacher and student, cached, or decoded smaller. Set "
            "do_resize=True with size={'height': ..., 'width': ...}, or a centre crop, or use one processor for both."
        )
    return sizes[0]


def _measured_colours(processor: BaseImageProcessor, channels: int, size: tuple[int, int]) -> ColourMap:
    """Return the map from pixels to colours, found with images of one colour each."""

    def colours_of(*pixel: int) -> Tensor:
        image = _image(np.full((*PROBE_SIZES[0], channels), pixel, dtype=np.uint8))
        # In the middle, because a rim may be padding.
        return processed(processor, image)[0, :, size[0] // 2, size[1] // 2].double()

    black = colours_of(*[0] * channels)
    pure = [colours_of(*[255 * (other == channel) for other in range(channels)]) for channel in range(channels)]
    colour_map = ColourMap((torch.stack(pure, 1) - black[:, None]) / 255, black)
    # The comparisons are written so that NaN fails them too.
    for pixel in (colour[:channels] for colour in PROBE_COLOURS):
        expected, given = colour_map.matrix @ torch.tensor(pixel).double() + black, colours_of(*pixel)
        if not (given - expected).abs().max() <= 1e-5 * 255 * colour_map.matrix.abs().max():
            raise _not_affine(processor, f"the pixel {pixel} becomes {given.tolist()} and not {expected.tolist()}")
    singular = torch.linalg.svdvals(colour_map.matrix)
    if not singular.min() > 1e-4 * singular.max():
        raise _not_affine(
            processor, f"different pixels get the same colours, by the matrix {colour_map.matrix.tolist()}"
        )
    return colour_map


def _not_affine(processor: BaseImageProcessor, problem: str) -> ValueError:
    return ValueError(
        f"{type(processor).__name__} does not rescale and normalise every pixel alike: {problem}. Per-image "
        "standardisation, colours that are dropped, and padding with other colours than black cannot be undone for an "
        "image that teacher and student share. Use a processor with a constant image_mean and image_std, or one image "
        "processor for both."
    )


def _image(pixels: np.ndarray) -> PILImage.Image:
    return PILImage.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else np.ascontiguousarray(pixels))
