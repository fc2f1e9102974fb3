"""Sites: the activations of a model, as one forward pass shows them."""

from __future__ import annotations

from dataclasses import dataclass

from hf_abkd.layers.capture import CapturePoint
from hf_abkd.layers.layout import Layout


@dataclass(frozen=True)
class Site:
    """An activation, a module or a call: a place where a boundary can be captured.

    Args:
        module: Its name: of a module that runs once that of the module, or else that of the call.
        activation: Its class, or the name of the function.
        calls: How often it runs in one forward pass.
        shape: The shape of its input in the first call.
        layout: How that tensor lies; None if it holds no positions of the image.
        depth: The share of the convolutions and linear layers that ran before it, from 0 to 1.
        left_out: Why no pair should be proposed with it; empty if it can be paired.
    """

    module: str
    activation: str
    calls: int
    shape: tuple[int, ...]
    layout: Layout | None
    depth: float
    left_out: str = ""

    @property
    def point(self) -> CapturePoint:
        """The tensor before the activation."""
        return CapturePoint(self.module, "input")


@dataclass(frozen=True)
class Trace:
    """What one forward pass showed.

    Args:
        image_size: Height and width of the images, in pixels.
        sites: The activations in the order in which they run.
        layouts: How the tensors at the other points asked for lie.
        cropped: Convolutions whose stride leaves out the last rows or columns: name, stride, size of their input.
    """

    image_size: tuple[int, int]
    sites: tuple[Site, ...]
    layouts: dict[CapturePoint, Layout]
    cropped: tuple[tuple[str, tuple[int, int], tuple[int, int]], ...]
