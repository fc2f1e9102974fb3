"""DirectImages: what a processor makes of images without its detours, where that is the same to the last bit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor
from transformers import BaseImageProcessor

from hf_abkd.data.pixel_colours import PixelColours
from hf_abkd.data.pixels import Pixels
from hf_abkd.data.preprocessing import noise
from hf_abkd.models.expected_images import PIXELS


class DirectImages:
    """Resizes images by Pillow and looks their colours up, as a processor does that brings them to arrays and back.

    Args:
        pixels: The processor, which resizes by Pillow alone.
        colours: The colours that it makes of pixels.
    """

    def __init__(self, pixels: Pixels, colours: PixelColours) -> None:
        self._pixels, self._colours = pixels, colours

    @classmethod
    def measured(cls, processor: BaseImageProcessor, channels: int) -> DirectImages | None:
        """Return this for a processor; None for one of which it is not seen to make the same images.

        Args:
            processor: The image processor.
            channels: 1 for grey or 3 for RGB images.
        """
        try:
            pixels = Pixels(processor, channels)
        except (TypeError, ValueError):
            return None
        colours = None if pixels.resampling is None else PixelColours.measured(pixels)
        if not isinstance(colours, PixelColours):
            return None
        direct, (height, width) = cls(pixels, colours), pixels.preprocessing.size
        image = noise((3 * height + 1, 2 * width + 3), channels, np.random.default_rng(1))
        return direct if torch.equal(direct([image]), processor([image], return_tensors="pt")[PIXELS]) else None

    def __call__(self, images: Sequence[PILImage.Image]) -> Tensor:
        """Return processed images, (N, C, H, W)."""
        return self._colours(self._pixels(images))
