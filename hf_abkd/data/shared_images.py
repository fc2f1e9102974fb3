"""Shared images: one image for both models, of which each reads its own size and its own colours, on the device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_abkd.data.colours import ColourMap
from hf_abkd.data.preprocessing import Preprocessing


class SharedImages:
    """What student and teacher each read of a batch of images that they share.

    The shared image, the canvas, has the larger size of the two and the student's colours, so that augmentations of
    it see the numbers they would see without a teacher. Everything stays on the device of the batch, in float32 also
    under autocast. What a bicubic resize adds beyond black and white is cut off, as PIL does.

    Args:
        student: What the student's processor makes of an image.
        teacher: What the teacher's makes of it; None if it is the same.

    Raises:
        ValueError: If the two have different numbers of channels.

    Example:
        >>> import torch
        >>> from transformers import ViTImageProcessorPil
        >>> student, teacher = (
        ...     Preprocessing.measured(ViTImageProcessorPil(size={"height": side, "width": side})) for side in (24, 40)
        ... )
        >>> shared = SharedImages(student, teacher)
        >>> canvas = shared.canvas(torch.zeros(2, 3, 40, 40, dtype=torch.uint8))
        >>> shared.student(canvas).shape, shared.teacher(canvas).shape
        (torch.Size([2, 3, 24, 24]), torch.Size([2, 3, 40, 40]))
    """

    def __init__(self, student: Preprocessing, teacher: Preprocessing | None = None) -> None:
        teacher = student if teacher is None else teacher
        if student.channels != teacher.channels:
            raise ValueError(
                f"the student reads images of {student.channels} channels and the teacher of {teacher.channels}, so "
                "they cannot share one. Use models with the same config.num_channels, and processors for as many."
            )
        self.student_preprocessing = student
        self.teacher_preprocessing = teacher
        self._student_colours = student.colour_map()
        self._teacher_colours = teacher.colour_map()
        self._to_teacher = self._student_colours.inverse().then(self._teacher_colours)

    @property
    def canvas_size(self) -> tuple[int, int]:
        """Height and width of the shared image: the larger of the two sizes by area, the student's if equal."""
        return max(self.student_preprocessing.size, self.teacher_preprocessing.size, key=lambda size: size[0] * size[1])

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
        return _resized(canvas, self.student_preprocessing, self._student_colours)

    def teacher(self, canvas: Tensor) -> Tensor:
        """Return what the teacher reads of a canvas (N, C, H, W): (N, C, *size); the canvas itself if it fits."""
        images, preprocessing = canvas, self.teacher_preprocessing
        # The resize commutes with the colours, so it goes first where it makes the batch smaller.
        if preprocessing.size[0] * preprocessing.size[1] < canvas.shape[-2] * canvas.shape[-1]:
            images = _resized(images, preprocessing, self._student_colours)
        if not self._to_teacher.is_identity:
            images = self._to_teacher(images)
        return _resized(images, preprocessing, self._teacher_colours)

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
        size = self.teacher_preprocessing.size
        if canvas_size[0] >= size[0] and canvas_size[1] >= size[1]:
            return None
        return (
            f"the teacher reads images of {size[0]}x{size[1]} pixels and gets them enlarged from "
            f"{canvas_size[0]}x{canvas_size[1]}, blurred: its outputs may be worse than on its own images. Prepare "
            "the data with ImageTransform(processor, teacher_processor=...), and augment without changing the size."
        )

    def _coloured(self, images: Tensor, colour_map: ColourMap) -> Tensor:
        if images.ndim != 4 or images.shape[1] != self.student_preprocessing.channels:
            raise ValueError(
                f"images have the shape {tuple(images.shape)}, and the models read "
                f"(N, {self.student_preprocessing.channels}, H, W). Prepare them with ImageTransform."
            )
        if images.is_floating_point():
            return images
        if images.dtype != torch.uint8:
            raise TypeError(
                f"images are of {images.dtype}; they must be uint8 pixels, or floating and in the student's colours. "
                "Prepare them with ImageTransform."
            )
        return colour_map(images)


def _resized(images: Tensor, preprocessing: Preprocessing, colour_map: ColourMap) -> Tensor:
    """Resize images in the colours of a map to a model's size, as PIL does: widths, then heights, each cut off."""
    for size in ((images.shape[-2], preprocessing.size[1]), preprocessing.size):
        if images.shape[-2:] != size:
            images = F.interpolate(
                images, size=size, mode=preprocessing.interpolation, align_corners=False, antialias=True
            )
            if preprocessing.interpolation == "bicubic":
                images = colour_map.clamp_(images)
    return images
