"""Schedules: the weight of a term as a function of how much of its stage is done."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Schedule:
    """A weight that goes from `start` to `end` over a stage.

    Call it with the progress of the stage, from 0 (first step) to 1 (after the last).

    Raises:
        ValueError: If either end is negative or not finite.
    """

    start: float
    end: float

    def __post_init__(self) -> None:
        """Check the ends."""
        if not (0 <= self.start < math.inf and 0 <= self.end < math.inf):
            raise ValueError(f"a schedule goes between two weights of 0 or more, got {self.start} and {self.end}")

    def __call__(self, progress: float) -> float:
        """Return the weight at this progress."""
        raise NotImplementedError

    def times(self, factor: float) -> Schedule:
        """Return the same schedule between other weights."""
        return replace(self, start=self.start * factor, end=self.end * factor)


class Linear(Schedule):
    """From `start` to `end` in a straight line."""

    def __call__(self, progress: float) -> float:
        """Return the weight at this progress."""
        return self.start + (self.end - self.start) * progress


@dataclass(frozen=True)
class LinearUntil(Schedule):
    """From `start` to `end` in a straight line over the first part of the stage, and `end` in the rest.

    Args:
        start: The weight at the first step.
        end: The weight from `until` on.
        until: The share of the stage after which it stays, in (0, 1].

    Raises:
        ValueError: If an end is negative or not finite, or `until` is no such share.
    """

    until: float = 1.0

    def __post_init__(self) -> None:
        """Check the ends and the share."""
        super().__post_init__()
        if not 0 < self.until <= 1:
            raise ValueError(f"until must be a share of the stage in (0, 1], got {self.until}")

    def __call__(self, progress: float) -> float:
        """Return the weight at this progress."""
        return self.start + (self.end - self.start) * min(1.0, progress / self.until)


class Cosine(Schedule):
    """From `start` to `end` along half a cosine: slow, fast, slow."""

    def __call__(self, progress: float) -> float:
        """Return the weight at this progress."""
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * progress)) / 2


class Exponential(Schedule):
    """From `start` to `end` by a constant factor per step.

    Raises:
        ValueError: If either end is not positive.
    """

    def __post_init__(self) -> None:
        """Check the ends."""
        super().__post_init__()
        if self.start == 0 or self.end == 0:
            raise ValueError(f"an exponential schedule needs two positive ends, got {self.start} and {self.end}")

    def __call__(self, progress: float) -> float:
        """Return the weight at this progress."""
        return self.start * math.exp(progress * math.log(self.end / self.start))
