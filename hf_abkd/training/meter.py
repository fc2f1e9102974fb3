"""Means of the terms of a stage between two lines of the log."""

from __future__ import annotations

import torch
from torch import Tensor


class Meter:
    """Means of the terms and agreements between two log lines, kept on the device until they are logged."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._counts: Tensor | None = None
        self._steps = 0.0

    def add(self, terms: Tensor, agreement: Tensor | None, share: float) -> None:
        """Add the values of one batch, terms (T,) and agreement (N, B), that is this share of an optimiser step.

        Steps count alike however many batches they have, as in the logged loss, which the terms so add up to.
        """
        values = terms if agreement is None else torch.cat([terms, agreement.mean(0)])
        self._sum = values * share if self._sum is None else self._sum + values * share
        self._steps += share

    def count(self, sums: Tensor) -> None:
        """Add what an extension counted in one batch, (F,)."""
        self._counts = sums if self._counts is None else self._counts + sums

    def drain_counts(self) -> Tensor | None:
        """Return the sums of what was counted, (F,), and start afresh; None when nothing was."""
        counts, self._counts = self._counts, None
        return counts

    def drain(self) -> Tensor | None:
        """Return the means, shape (T + B,), and start afresh; None when nothing was added."""
        mean = None if self._sum is None else self._sum / self._steps
        self._sum, self._steps = None, 0.0
        return mean
