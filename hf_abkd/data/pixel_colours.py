"""PixelColours: what one processor makes of the colours of pixels that it left alone, to the last bit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor

from hf_abkd.data.colours import ColourMap
from hf_abkd.data.pixels import Pixels
from hf_abkd.data.preprocessing import PROBE_SIZES, probes
from hf_abkd.models.expected_images import PIXELS

# Images that a processor is shown at once.
_AT_ONCE = 16


class PixelColours:
    """The colours of each value of a pixel, looked up: those that the processor gives, and not those of a formula.

    An affine map would have them up to the rounding of float32, which differs with the order of its operations.

    Args:
        values: The colour that each channel has for each value of a pixel, (C, 256) float32.
        sources: From which channel of a pixel each channel is made.

    Example:
        >>> colours = PixelColours(torch.arange(256.0)[None] / 255, [0])
        >>> colours(torch.full((1, 1, 1, 1), 51, dtype=torch.uint8)).item() == torch.tensor(51 / 255).item()
        True
    """

    def __init__(self, values: Tensor, sources: Sequence[int]) -> None:
        self._values = values
        self._sources = list(sources)
        self._on: dict[torch.device, Tensor] = {}

    @classmethod
    def measured(cls, pixels: Pixels) -> PixelColours | ColourMap:
        """Return what makes the colours of a processor of its pixels.

        Processors that mix channels, or resize in other numbers than whole ones, have a `ColourMap`: equal up to
        rounding.

        Args:
            pixels: The processor.
        """
        colour_map = pixels.preprocessing.colour_map()
        used = colour_map.matrix != 0
        if not (used.sum(1) == 1).all():
            return colour_map
        sources = used.int().argmax(1).tolist()
        noise = probes(pixels.preprocessing.channels)
        exact = pixels.processor(noise, return_tensors="pt")[PIXELS]
        for measure in (_of_one_image, _of_grey_images):
            values = measure(pixels)
            if values is not None and torch.equal((colours := cls(values, sources))(pixels(noise)), exact):
                return colours
        return colour_map

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return the colours of pixels, (N, C, H, W): float32 for uint8."""
        if pixels.device not in self._on:
            # Made during an evaluation in inference mode, it could not be used in a later training step.
            with torch.inference_mode(False):
                self._on[pixels.device] = self._values.to(pixels.device)
        values = self._on[pixels.device]
        colours = torch.empty(pixels.shape, dtype=values.dtype, device=pixels.device)
        for channel, source in enumerate(self._sources):
            # One channel at a time: the indices take eight times as much memory as the pixels.
            colours[:, channel] = torch.take(values[channel], pixels[:, source].long())
        return colours


def _of_one_image(pixels: Pixels) -> Tensor | None:
    """Return the colours of an image with all greys, (C, 256); None if the processor cannot leave the size alone."""
    greys = _picture(np.arange(256, dtype=np.uint8).reshape(16, 16), pixels)
    try:
        made: Tensor = pixels.processor(
            [greys], return_tensors="pt", do_resize=False, do_center_crop=False, do_pad=False
        )[PIXELS]
    except (TypeError, ValueError):
        return None
    return made[0].flatten(1) if made.shape[-2:] == (16, 16) else None


def _of_grey_images(pixels: Pixels) -> Tensor:
    """Return the colours of images of one grey each, (C, 256)."""
    height, width = pixels.preprocessing.size
    images = [_picture(np.full(PROBE_SIZES[0], grey, np.uint8), pixels) for grey in range(256)]
    made = [
        # In the middle, because a rim may be padding.
        pixels.processor(images[first : first + _AT_ONCE], return_tensors="pt")[PIXELS][:, :, height // 2, width // 2]
        for first in range(0, 256, _AT_ONCE)
    ]
    return torch.cat(made).T.contiguous()


def _picture(greys: np.ndarray, pixels: Pixels) -> PILImage.Image:
    return PILImage.fromarray(greys).convert("L" if pixels.preprocessing.channels == 1 else "RGB")
