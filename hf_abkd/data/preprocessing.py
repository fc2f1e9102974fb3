"""What teacher and student each see of one shared image: its size and its colours, made on the device.

A *pixel* is a whole number from 0 to 255 per channel; *colours* are what a model reads instead: rescaled, normalised,
perhaps with the channels in another order. An image processor is taken as it behaves and not as it is configured,
so that those with settings of their own (an offset, BGR) need no case of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor
from torch.nn import functional as F
from transformers import BaseImageProcessor

# Height and width of the images a processor is measured on. They are no usual size, so that a resize shows.
PROBE_SIZES = ((53, 53), (41, 67), (67, 41))
PROBE_COLOURS = ((128, 64, 32), (10, 200, 90), (250, 5, 130), (255, 255, 255))
# PIL's codes. Lanczos has no counterpart in torch; bicubic is nearest to it.
BICUBIC_CODES = (PILImage.Resampling.BICUBIC, PILImage.Resampling.LANCZOS)


class ColourMap:
    """An affine map of every pixel's channels: ``matrix @ pixel + offset``, computed in at least float32.

    Its constants are copied once to each device it is used on.

    Args:
        matrix: Shape (C, C).
        offset: Shape (C,).
    """

    def __init__(self, matrix: Tensor, offset: Tensor) -> None:
        self.matrix = matrix.double()
        self.offset = offset.double()
        self._is_diagonal = torch.equal(self.matrix, self.matrix.diagonal().diag())
        self._constants: dict[torch.device, tuple[Tensor, Tensor]] = {}

    @property
    def is_identity(self) -> bool:
        """Whether colours stay as they are, up to 1e-6."""
        change = self.matrix - torch.eye(len(self.offset), dtype=torch.float64)
        return bool(change.abs().max() < 1e-6 and self.offset.abs().max() < 1e-6)

    def inverse(self) -> ColourMap:
        """Return the map back."""
        back = torch.linalg.inv(self.matrix)
        return ColourMap(back, -back @ self.offset)

    def then(self, other: ColourMap) -> ColourMap:
        """Return the one map that does this one and then the other."""
        return ColourMap(other.matrix @ self.matrix, other.matrix @ self.offset + other.offset)

    def __call__(self, images: Tensor) -> Tensor:
        """Return the mapped images, shape (N, C, H, W), float32 for uint8 and half precision images."""
        # Not a matrix product: autocast and TF32 would round it to fewer digits than a pixel has.
        columns, offset = self._on(images.device)
        if self._is_diagonal:
            return (images * columns.sum(0)).add_(offset)
        mapped = images[:, :1] * columns[0]
        for channel in range(1, len(columns)):
            mapped = mapped.add_(images[:, channel : channel + 1] * columns[channel])
        return mapped.add_(offset)

    def clamp_(self, colours: Tensor) -> Tensor:
        """Bring colours that no pixel has into the range of those that pixels have, in place; shape (N, C, H, W)."""
        columns, offset = self._on(colours.device)
        return colours.clamp_(columns.clamp(max=0).sum(0) * 255 + offset, columns.clamp(min=0).sum(0) * 255 + offset)

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the columns of the matrix (C, C, 1, 1) and the offset (C, 1, 1) in float32 on a device."""
        if device not in self._constants:
            # Made during an evaluation in inference mode, they could not be used in a later training step.
            with torch.inference_mode(False):
                columns, offset = self.matrix.T[:, :, None, None], self.offset[:, None, None]
                self._constants[device] = (columns.float().to(device), offset.float().to(device))
        return self._constants[device]


@dataclass(frozen=True)
class View:
    """What an image processor gives for an image: the size, and the colours as an affine map of its pixels.

    Args:
        size: Height and width.
        matrix: Rows of a (C, C) matrix that maps a pixel (C numbers from 0 to 255) to colours.
        offset: The colours of a black pixel, C numbers.
        interpolation: How to resize to that size, ``"bilinear"`` or ``"bicubic"``.
    """

    size: tuple[int, int]
    matrix: tuple[tuple[float, ...], ...]
    offset: tuple[float, ...]
    interpolation: str = "bilinear"

    @classmethod
    def measured(cls, processor: BaseImageProcessor, channels: int = 3) -> View:
        """Return the view of a processor, from what it makes of a few images.

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


class Views:
    """The student's and the teacher's view of a batch of shared images.

    The shared image, the canvas, has the larger size of the two and the student's colours, so that augmentations of
    it see the numbers they would see without a teacher. Everything stays on the device of the batch, in float32 also
    under autocast. What a bicubic resize adds beyond black and white is cut off, as PIL does.

    Args:
        student: The student's view.
        teacher: The teacher's view; None if it is the same.

    Raises:
        ValueError: If the two have different numbers of channels.
    """

    def __init__(self, student: View, teacher: View | None = None) -> None:
        teacher = student if teacher is None else teacher
        if student.channels != teacher.channels:
            raise ValueError(
                f"the student reads images of {student.channels} channels and the teacher of {teacher.channels}, so "
                "they cannot share one. Use models with the same config.num_channels, and processors for as many."
            )
        self.student_view = student
        self.teacher_view = teacher
        self._student_colours = student.colour_map()
        self._teacher_colours = teacher.colour_map()
        self._to_teacher = self._student_colours.inverse().then(self._teacher_colours)

    @property
    def canvas_size(self) -> tuple[int, int]:
        """Height and width of the shared image: the larger of the two sizes by area, the student's if equal."""
        return max(self.student_view.size, self.teacher_view.size, key=lambda size: size[0] * size[1])

    def canvas(self, pixel_values: Tensor) -> Tensor:
        """Return a batch in the student's colours, shape (N, C, H, W); augmentations are applied to the result.

        Args:
            pixel_values: Pixels of any size, uint8, shape (N, C, H, W). A floating batch is in the student's colours
                already, prepared by the student's processor, and is returned as it is.

        Raises:
            TypeError: If the batch holds other integers.
            ValueError: If it has another number of channels.
        """
        return self._coloured(pixel_values, self._student_colours)

    def student(self, canvas: Tensor) -> Tensor:
        """Return what the student reads of a canvas (N, C, H, W): (N, C, *size); the canvas itself if it fits."""
        return _resized(canvas, self.student_view, self._student_colours)

    def teacher(self, canvas: Tensor) -> Tensor:
        """Return what the teacher reads of a canvas (N, C, H, W): (N, C, *size); the canvas itself if it fits."""
        images, view = canvas, self.teacher_view
        # The resize commutes with the colours, so it goes first where it makes the batch smaller.
        if view.size[0] * view.size[1] < canvas.shape[-2] * canvas.shape[-1]:
            images = _resized(images, view, self._student_colours)
        if not self._to_teacher.is_identity:
            images = self._to_teacher(images)
        return _resized(images, view, self._teacher_colours)

    def teacher_only(self, pixel_values: Tensor) -> Tensor:
        """Return a batch of the teacher's own size and crop in the teacher's colours, shape (N, C, H, W).

        Args:
            pixel_values: Pixels, uint8, shape (N, C, H, W). A floating batch is in the teacher's colours already and
                is returned as it is.

        Raises:
            TypeError: If the batch holds other integers.
            ValueError: If it has another number of channels.
        """
        return self._coloured(pixel_values, self._teacher_colours)

    def clamp_(self, canvas: Tensor) -> Tensor:
        """Cut a canvas (N, C, H, W) off at the colours that pixels have, in place."""
        return self._student_colours.clamp_(canvas)

    def upsampling(self, canvas_size: tuple[int, int]) -> str | None:
        """Return a sentence if the teacher's images have to be enlarged from a canvas (height, width), else None."""
        size = self.teacher_view.size
        if canvas_size[0] >= size[0] and canvas_size[1] >= size[1]:
            return None
        return (
            f"the teacher reads images of {size[0]}x{size[1]} pixels and gets them enlarged from "
            f"{canvas_size[0]}x{canvas_size[1]}, blurred: its outputs may be worse than on its own images. Prepare "
            "the data with ImageTransform(processor, teacher_processor=...), and augment without changing the size."
        )

    def _coloured(self, images: Tensor, colour_map: ColourMap) -> Tensor:
        if images.ndim != 4 or images.shape[1] != self.student_view.channels:
            raise ValueError(
                f"images have the shape {tuple(images.shape)}, and the models read "
                f"(N, {self.student_view.channels}, H, W). Prepare them with ImageTransform."
            )
        if images.is_floating_point():
            return images
        if images.dtype != torch.uint8:
            raise TypeError(
                f"images are of {images.dtype}; they must be uint8 pixels, or floating and in the student's colours. "
                "Prepare them with ImageTransform."
            )
        return colour_map(images)


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
        pixel_values: Tensor = processor([image], return_tensors="pt")["pixel_values"]
    except ValueError as error:
        raise ValueError(f"{name} cannot process a {image.mode} image: {error}. {remedy}") from error
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
    return [_image(generator.integers(0, 256, (*size, channels), dtype=np.uint8)) for size in PROBE_SIZES]


def same_preprocessing(student: BaseImageProcessor, teacher: BaseImageProcessor, channels: int = 3) -> bool:
    """Return whether two processors make the same of images: size, crop, interpolation and colours.

    They are compared by what they give, also where no `View` could be measured (images that keep their size).

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
            "teacher and student can share an image only if each has one fixed size. Set do_resize=True with "
            "size={'height': ..., 'width': ...}, or a centre crop, or use one image processor for both."
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


def _not_affine(processor: BaseImageProcessor, found: str) -> ValueError:
    return ValueError(
        f"{type(processor).__name__} does not rescale and normalise every pixel alike: {found}. Per-image "
        "standardisation, colours that are dropped, and padding with other colours than black cannot be undone for an "
        "image that teacher and student share. Use a processor with a constant image_mean and image_std, or one image "
        "processor for both."
    )


def _image(pixels: np.ndarray) -> PILImage.Image:
    return PILImage.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else np.ascontiguousarray(pixels))


def _resized(images: Tensor, view: View, colour_map: ColourMap) -> Tensor:
    """Resize images in the colours of a map to the size of a view, as PIL does: widths, then heights, each cut off."""
    for size in ((images.shape[-2], view.size[1]), view.size):
        if images.shape[-2:] != size:
            images = F.interpolate(images, size=size, mode=view.interpolation, align_corners=False, antialias=True)
            if view.interpolation == "bicubic":
                images = colour_map.clamp_(images)
    return images
