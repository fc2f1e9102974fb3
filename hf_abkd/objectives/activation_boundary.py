"""The activation boundary objective of Heo et al., and the agreement that it raises."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from hf_abkd.citations import HEO_2019
from hf_abkd.objectives.objective import Objective


class ActivationBoundary(Objective):
    """Put every student unit on the teacher unit's side of its activation boundary.

    A unit of the teacher is on (its response is above 0) or off (0 or below). The student's response should lie
    at least `margin` past the boundary on the same side; what it falls short of that is squared.

    Paper: Heo et al., "Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons",
        AAAI 2019, https://huggingface.co/papers/1811.03233
    Shapes: student, teacher (N, ...), both before the activation; returns ().
    Differs from the authors' code: they write two masked terms; one signed hinge has the same value and the same
        gradient and keeps less in memory. The default reduction is the mean over all elements, which needs no
        retuning when the architecture changes. The authors sum over elements and average over samples:
        `reduction="sum"`. The sum is the mean times the number of elements of one sample, so a layer of C
        channels on an H x W grid needs a weight C*H*W times smaller with "sum" for the same training. Their
        CIFAR-10 recipe (layer weights 1/4, 1/2, 1, total weight 3/1000, "sum") for a wide ResNet of widen
        factor k is `weight=12.288 * k` on every layer with "mean".

    Args:
        margin: How far past the boundary counts as safe, in units of the student's response (mu in the paper).
        reduction: "mean" over all elements, or "sum" over the elements of a sample and mean over samples.

    Raises:
        ValueError: If `margin` is not positive and finite or `reduction` is neither of the two.
    """

    boundary: ClassVar[bool] = True
    citation: ClassVar[str] = HEO_2019

    def __init__(self, *, margin: float = 1.0, reduction: Literal["mean", "sum"] = "mean") -> None:
        super().__init__()
        if not 0 < margin < math.inf:
            raise ValueError(f"margin must be positive and finite, got {margin}")
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
        self.margin = margin
        self.reduction = reduction

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the squared shortfall, reduced over elements and averaged over samples, shape ()."""
        shortfall = (self.margin - torch.where(target > 0, student, -student)).relu().square()
        return shortfall.mean() if self.reduction == "mean" else shortfall.flatten(1).sum(1).mean()

    def extra_repr(self) -> str:
        """Show the settings in `repr`, logs and model cards."""
        return f"margin={self.margin}, reduction={self.reduction!r}"


def boundary_agreement(student: Tensor, teacher: Tensor) -> Tensor:
    """Return, per sample, the share of units that lie on the same side of the boundary for both nets.

    One minus this is the ideal transfer loss of Heo et al. (AAAI 2019), which has no gradient and is only
    reported.

    Shapes: student, teacher (N, ...), both before the activation; returns (N,), float32, in [0, 1].
    """
    return ((student > 0) == (teacher > 0)).flatten(1).float().mean(1)
