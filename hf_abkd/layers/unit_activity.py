"""Unit activity: which units of a layer ever respond, and how far from their activation boundary they do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hf_abkd.layers.boundary_points import resolve_boundaries
from hf_abkd.layers.capture import Capture
from hf_abkd.layers.layout import Order

# Of so many responses of a batch the distribution is told: all of a layer would fill the memory.
_SAMPLED = 20_000


@dataclass(frozen=True, eq=False)
class UnitActivity:
    """How the units of a layer responded to some images.

    Attributes:
        on: Whether each unit was above its boundary anywhere in any image, (C,).
        responses: Some of the responses before the activation, (R,): at the same places in every layer of this shape.
        shape: The shape of the layer's tensor of an image.
    """

    on: NDArray[np.bool_]
    responses: NDArray[np.float32]
    shape: tuple[int, ...]

    @property
    def dead_share(self) -> float:
        """The share of units that never were above their boundary, in [0, 1]."""
        return float(1 - self.on.mean())

    def deviations(self) -> NDArray[np.floating]:
        """Return the responses in standard deviations from 0, their boundary; as they are if all are one."""
        deviation = self.responses.std()
        return self.responses / deviation if deviation else self.responses

    def toward(self, teacher: UnitActivity) -> NDArray[np.floating] | None:
        """Return how far the responses lie on the side on which those of a teacher are, in standard deviations, (R,).

        What is below 0 is on the other side of the boundary. None if the layers have other shapes, so that units have
        no partners.

        Args:
            teacher: The activity of the teacher's layer on the same images, in batches of the same size.
        """
        if self.shape != teacher.shape or len(self.responses) != len(teacher.responses):
            return None
        far = self.deviations()
        return np.where(teacher.responses > 0, far, -far)


def unit_activity(
    model: nn.Module,
    orders: Mapping[str, Order | None],
    forward: Callable[[Tensor], object],
    batches: Iterable[Tensor],
) -> dict[str, UnitActivity]:
    """Return how the units of some layers respond.

    Args:
        model: The model, in evaluation mode.
        orders: The layers, as a plan names them, and how their tensors lie. A unit is a channel; where the order is
            not known it is every number of the tensor.
        forward: Runs the model on a batch.
        batches: Batches of images, at least one.

    Raises:
        ValueError: If the model has no such layer, or the layer no boundary; or there is no batch.
    """
    found: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in orders}
    shapes: dict[str, tuple[int, ...]] = {}
    capture = None
    try:
        with torch.no_grad():
            for images in batches:
                if capture is None:
                    points = resolve_boundaries(model, orders, lambda: forward(images))  # noqa: B023
                    capture = Capture(model, points.values()).attach()
                    tensors = capture.probe(lambda: forward(images))  # noqa: B023
                else:
                    tensors = capture.run(lambda: forward(images))[1]  # noqa: B023
                for name, point in points.items():
                    found[name].append(_seen(tensors[point], orders[name]))
                    shapes[name] = tuple(tensors[point].shape[1:])
    finally:
        if capture is not None:
            capture.detach()
    if capture is None:
        raise ValueError("there is no image to measure by")
    return {
        name: UnitActivity(
            torch.stack([on for on, _ in parts]).any(0).numpy(),
            torch.cat([some for _, some in parts]).numpy(),
            shapes[name],
        )
        for name, parts in found.items()
    }


def _seen(responses: Tensor, order: Order | None) -> tuple[Tensor, Tensor]:
    """Return whether each unit was on in a batch, (C,), and some of the responses, (R,)."""
    units = responses.flatten(1) if order is None else responses.movedim(order.index("C"), -1).flatten(0, -2)
    every = max(1, -(-responses.numel() // _SAMPLED))
    return (units > 0).any(0).cpu(), responses.flatten()[::every].float().cpu()
