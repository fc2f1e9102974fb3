"""Comparison: what a copy of a teacher says of one batch, and how far that is from what the teacher says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from hf_abkd.layers.capture import Capture, CapturePoint
from hf_abkd.teachers.speed.copies import FastModel, unchanged

# How far a tensor of the copy may be from that of the teacher anywhere, as a share of its spread (standard deviation).
# A wrong fold is off by about all of it. What is left is for rounding: float32 differs by some 1e-5, in deep and narrow
# networks by 1e-4, and on an accelerator its convolutions may round to the 10 bits of float16.
_TOLERANCES = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.5}
_ACCELERATOR_TOLERANCE = 0.05

#: Runs a model on the batch and returns its logits; the second argument says whether to give the images with their
#: channels last.
Run = Callable[[nn.Module, bool], Tensor]


@dataclass(frozen=True)
class Deviation:
    """How far tensors are apart at most: as a share of their spread, and as a multiple of what is allowed."""

    largest: float
    excess: float


class Comparison:
    """One batch, on which copies of a teacher are compared with it.

    Args:
        model: The teacher.
        run: Runs a model on the batch.
        points: What is read of it beside the logits.
        overwritten: Those of the points whose tensors a later operation overwrites in place.
    """

    def __init__(
        self, model: nn.Module, run: Run, points: Sequence[CapturePoint], overwritten: Sequence[CapturePoint]
    ) -> None:
        self.model = model
        self.run = run
        self.points = points
        self.overwritten = overwritten

    @cached_property
    def expected(self) -> list[Tensor]:
        """What the teacher itself says."""
        return self.tensors(unchanged(self.model))

    def tensors(self, fast: FastModel) -> list[Tensor]:
        """Return the logits of a model and its tensors at all points."""
        with Capture(fast.model, self.points, self.overwritten) as capture:
            logits, captured = capture.run(lambda: self.run(fast.model, fast.channels_last))
        return [logits, *captured.values()]

    def deviation(self, fast: FastModel) -> Deviation:
        """Return how far a copy is from the teacher anywhere.

        Raises:
            RuntimeError: If a tensor has another shape or type.
        """
        shares, excesses = [], []
        for one, other in zip(self.expected, self.tensors(fast), strict=True):
            if one.shape != other.shape or one.dtype != other.dtype:
                raise RuntimeError(
                    f"a tensor of {one.dtype} {tuple(one.shape)} became {other.dtype} {tuple(other.shape)}"
                )
            tolerance = _TOLERANCES.get(one.dtype, 0.0)
            if one.device.type != "cpu":
                tolerance = max(tolerance, _ACCELERATOR_TOLERANCE)
            shares.append((one.float() - other.float()).abs().max() / _spread(one))
            excesses.append(shares[-1] / tolerance)
        # The maximum of torch keeps a NaN.
        return Deviation(torch.stack(shares).max().item(), torch.stack(excesses).max().item())

    def average_deviation(self, fast: FastModel) -> float:
        """Return the largest of the root mean square differences of tensors, each as a share of its spread."""
        shares = [
            (one.float() - other.float()).square().mean().sqrt() / _spread(one)
            for one, other in zip(self.expected, self.tensors(fast), strict=True)
        ]
        return torch.stack(shares).max().item()


def _spread(tensor: Tensor) -> Tensor:
    return tensor.float().std(correction=0).clamp_min(torch.finfo(torch.float32).tiny)
