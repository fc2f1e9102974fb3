"""Pixels: what a processor makes of images before it rescales and normalises them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor
from transformers import BaseImageProcessor

from hf_abkd.data.preprocessing import Preprocessing, noise, probes
from hf_abkd.models.expected_images import PIXELS


class Pixels:
    """Resizes and crops images as a processor does, and leaves their colours alone: uint8, (N, C, H, W).

    A processor that only resizes, as most do, does that with Pillow, which is called without its detours where that is
    seen to give the same pixels.

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
        return self._by_processor(images) if self.resampling is None else self._by_pillow(images, self.resampling)

    @cached_property
    def resampling(self) -> int | None:
        """By which filter Pillow makes the pixels of the processor; None if something else does."""
        resampling = getattr(self.processor, "resample", None)
        if resampling not in list(PILImage.Resampling):
            return None
        height, width = self.preprocessing.size
        # Enlarged and made smaller, in both directions: a processor may treat these differently.
        sizes = [(2 * height + 3, 2 * width + 1), (2 * height + 1, 5), (7, 3 * width), (height, width)]
        generator, channels = np.random.default_rng(0), self.preprocessing.channels
        images = [*probes(channels), *(noise(size, channels, generator) for size in sizes)]
        same = all(torch.equal(self._by_pillow([one], int(resampling)), self._by_processor([one])) for one in images)
        return int(resampling) if same else None

    def _by_processor(self, images: Sequence[PILImage.Image]) -> Tensor:
        return self._resized(images) if self._can_skip else self._undone(images)

    def _by_pillow(self, images: Sequence[PILImage.Image], resampling: int) -> Tensor:
        height, width = self.preprocessing.size
        arrays = [np.asarray(image.resize((width, height), resampling)) for image in images]
        stacked = torch.from_numpy(np.stack(arrays)).view(len(arrays), height, width, -1)
        return stacked.permute(0, 3, 1, 2).contiguous()

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
