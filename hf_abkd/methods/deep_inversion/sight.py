"""Sight: what a model sees of images that are optimised in units of their own, and these units as 8-bit pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BaseImageProcessor

from hf_abkd.data.colours import ColourMap
from hf_abkd.data.preprocessing import Preprocessing
from hf_abkd.models import expected_images
from hf_abkd.models.expected_images import PIXELS
from hf_abkd.teachers.live import LiveTeacher

# Images are optimised in units that are about those of ImageNet's usual normalisation (the mean of its three means and
# of its three deviations): so that learning rate and weights mean the same whatever the processor of the teacher does.
GREY = 0.449 * 255
UNIT = 0.226 * 255
#: The range of 8-bit pixels in these units.
DARKEST, BRIGHTEST = -GREY / UNIT, (255 - GREY) / UNIT


class Sight:
    """What a model makes of a batch in our units: colours of its processor, its size, and logits with gradients."""

    def __init__(self, model: nn.Module, processor: BaseImageProcessor, channels: int) -> None:
        self.model = model
        self.view = Preprocessing.measured(processor, channels)
        self.channels = channels
        pixels = ColourMap(
            UNIT * torch.eye(channels, dtype=torch.float64), torch.full((channels,), GREY, dtype=torch.float64)
        )
        self.to_colours = pixels.then(self.view.colour_map())

    def logits(self, images: Tensor, *, resize: bool = False) -> Tensor:
        """Return the logits, (N, K), float32; call it while the model is `frozen`."""
        if resize and images.shape[-2:] != self.view.size:
            images = F.interpolate(images, size=self.view.size, mode="bilinear", align_corners=False, antialias=True)
        return LiveTeacher(self.model).logits({PIXELS: self.to_colours(images)}).float()


def channels_of(model: nn.Module) -> int:
    """Return how many channels the images of a model have: 3, unless its config says otherwise."""
    return expected_images.channels_of(getattr(model, "config", None)) or 3


def to_pixels(images: Tensor) -> Tensor:
    """Return images in our units as 8-bit pixels, uint8, of the same shape."""
    return (images.detach() * UNIT + GREY).round().clamp(0, 255).to(torch.uint8)


def of_pixels(pixels: Tensor) -> Tensor:
    """Return 8-bit pixels as images in our units, float32, of the same shape."""
    return (pixels.float() - GREY) / UNIT
