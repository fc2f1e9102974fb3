"""Pixels: what a processor makes of images before it rescales and normalises them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image as PILImage
from torch import Tensor
from transformers import BaseImageProcessor

from hf_abkd.data.preprocessing import Preprocessing, probes
from hf_abkd.models.expected_images import PIXELS


class Pixels:
    """Resizes and crops images as a processor does, and leaves their colours alone: uint8, (N, C, H, W).

    Args:
        processor: The image processor.
        channels: 1 for grey or 3 for RGB images.
    """

    def __init__(self, processor: BaseImageProcessor, channels: int) -> None:
        self.processor = processor
        self.preprocessing = Preprocessing.measured(processor, channels)
        self._back = self.preprocessing.colour_map().inverse()
        # Most processors can leave the colours alone, which takes a fraction of the time of undoing them.
        self._can_skip = all(self._skips(image) for image in probes(channels))

    def __call__(self, images: Sequence[PILImage.Image]) -> Tensor:
        """Return the pixels of images."""
        return self._resized(images) if self._can_skip else self._undone(images)

    def _resized(self, images: Sequence[PILImage.Image]) -> Tensor:
        pixels: Tensor = self.processor(images, return_tensors="pt", do_rescale=False, do_normalize=False)[PIXELS]
        return pixels

    def _undone(self, images: Sequence[PILImage.Image]) -> Tensor:
        return self._back(self.processor(images, return_tensors="pt")[PIXELS]).round_().clamp_(0, 255).byte()

    def _skips(self, image: PILImage.Image) -> bool:
        try:
            pixels = self._resized([image])
        except (TypeError, ValueError):
            return False
        return pixels.dtype == torch.uint8 and torch.equal(pixels, self._undone([image]))
