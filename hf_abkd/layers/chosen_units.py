"""Some units of a wide teacher's layer, as many as tell a student all that it can follow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hf_abkd.boundaries.packing import unpack_units


class ChosenUnits(nn.Module):
    """Some units of a teacher's tensor, evenly spaced among all: (N, ...) with D units to (N, ...) with fewer.

    Which ones follows from the two numbers alone, so that all processes, runs and resumed runs have the same. Nothing
    to train.

    Args:
        shape: The shape of a sample of the teacher's tensor.
        channel_dim: Where its units lie, counted with the dimension of the samples, which is 0.
        count: How many are chosen.
        form: What their tensor goes through afterwards; None for nothing.
    """

    def __init__(self, shape: Sequence[int], channel_dim: int, count: int, form: nn.Module | None = None) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.channel_dim = channel_dim
        self.count = count
        self.total = self.shape[channel_dim - 1]
        self.form = nn.Identity() if form is None else form
        self.units: Tensor
        # Not saved: it follows from the two numbers.
        self.register_buffer("units", torch.arange(count) * self.total // count, persistent=False)

    def forward(self, target: Tensor) -> Tensor:
        """Return what the chosen units say; of packed sides (uint8) bools, and the bits of the others are not read.

        Shapes: target (N, *shape), or packed, (N, ceil(n / 8)) for n units and positions; returns (N, *shape) with
            `count` in the place of all units, in the form that was given.
        """
        if target.dtype == torch.uint8:
            chosen = unpack_units(target, self.shape, self.units, self.channel_dim)
        else:
            chosen = target.index_select(self.channel_dim, self.units)
        formed: Tensor = self.form(chosen)
        return formed

    def extra_repr(self) -> str:
        """Return how many of how many."""
        return f"{self.count} of {self.total}"
