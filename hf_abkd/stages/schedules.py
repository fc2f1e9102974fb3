"""Schedules: the weight of a term as a function of how much of its stage is done."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from hf_abkd.settings import number


class Schedule:
    """A weight that changes over a stage.

    Call it with the progress of the stage, from 0 (first step) to 1 (after the last). One of your own is a subclass
    with `__call__` and `times`, whose `repr` tells its settings: checkpoints compare it.

    Example:
        >>> from hf_abkd.stages.schedules import Linear, Schedule
        >>> falling = Linear(start=1.0, end=0.0)
        >>> isinstance(falling, Schedule), falling(0.25), falling.times(2)(0.25)
        (True, 0.75, 1.5)
    """

    def __call__(self, progress: float) -> float:
        """Return the weight at this progress."""
        raise NotImplementedError

    def times(self, factor: float) -> Schedule:
        """Return the same schedule times a number."""
        raise NotImplementedError


@dataclass(frozen=True)
class Between(Schedule):
    """A weight that goes from `start` to `end` over a stage.

    Raises:
        ValueError: If either end is negative or not finite.
    """

    start: float
    end: float

    def __post_init__(self) -> None:
        """Check the ends."""
        for name in ("start", "end"):
            object.__setattr__(self, name, number(name, getattr(self, name), least=0))

    def times(self, factor: float) -> Schedule:
        """Return the same schedule between other weights."""
        return replace(self, start=self.start * factor, end=self.end * factor)


class Linear(Between):
    """From `start` to `end` in a straight line.

    Example:
        >>> from hf_abkd.stages.schedules import Linear
        >>> schedule = Linear(start=1.0, end=0.0)
        >>> [round(schedule(progress), 2) for progress in (0.0, 0.5, 1.0)]
        [1.0, 0.5, 0.0]
    """

    def __call__(self, progress: float) -> float:
        """Return the weight at this progress."""
        return self.start + (self.end - self.start) * progress


@dataclass(frozen=True)
class LinearUntil(Between):
    """From `start` to `end` in a straight line over the first part of the stage, and `end` in the rest.

    Args:
        start: The weight at the first step.
        end: The weight from `until` on.
        until: The share of the stage after which it stays, in (0, 1].

    Raises:
        ValueError: If an end is negative or not finite, or `until` is no such share.

    Example:
        >>> from hf_abkd.stages.schedules import LinearUntil
        >>> schedule = LinearUntil(start=0.0, end=1.0, until=0.25)
        >>> [round(schedule(progress), 2) for progress in (0.0, 0.5, 1.0)]
        [0.0, 1.0, 1.0]
    """

    until: float = 1.0

    def __post_init__(self) -> None:
        """Check the ends and the share."""
        super().__post_init__()
        object.__setattr__(self, "until", number("until", self.until, above=0, most=1))

    def __call__(self, progress: float) -> float:
        """Return the weight at this progress."""
        return self.start + (self.end - self.start) * min(1.0, progress / self.until)


class Cosine(Between):
    """From `start` to `end` along half a cosine: slow, fast, slow.

    Example:
        >>> from hf_abkd.stages.schedules import Cosine
        >>> schedule = Cosine(start=1.0, end=0.0)
        >>> [round(schedule(progress), 2) for progress in (0.0, 0.5, 1.0)]
        [1.0, 0.5, 0.0]
    """

    def __call__(self, progress: float) -> float:
        """Return the weight at this progress."""
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * progress)) / 2


class Exponential(Between):
    """From `start` to `end` by a constant factor per step.

    Raises:
        ValueError: If either end is not positive.

    Example:
        >>> from hf_abkd.stages.schedules import Exponential
        >>> schedule = Exponential(start=0.1, end=0.9)
        >>> [round(schedule(progress), 2) for progress in (0.0, 0.5, 1.0)]
        [0.1, 0.3, 0.9]
    """

    def __post_init__(self) -> None:
        """Check the ends."""
        super().__post_init__()
        if self.start == 0 or self.end == 0:
            raise ValueError(f"an exponential schedule needs two positive ends, got {self.start} and {self.end}")

    def __call__(self, progress: float) -> float:
        """Return the weight at this progress."""
        return self.start * math.exp(progress * math.log(self.end / self.start))


@dataclass(frozen=True)
class Rise(Between):
    """From `start` to `end` as a weight that grows by a constant factor per step, up to `ratio` times, goes its way.

    The complement of an `Exponential` is of this form: 1 - b, with b from 0.1 to 0.9 by a constant factor, is
    `Rise(start=0.9, end=0.1, ratio=9)`.

    Args:
        start: The weight at the first step.
        end: The weight after the last.
        ratio: How many times the other weight grows, above 1.

    Raises:
        ValueError: If an end is negative or not finite, or `ratio` is not above 1.

    Example:
        >>> from hf_abkd.stages.schedules import Rise
        >>> schedule = Rise(start=0.9, end=0.1, ratio=9)
        >>> [round(schedule(progress), 2) for progress in (0.0, 0.5, 1.0)]
        [0.9, 0.7, 0.1]
    """

    ratio: float = math.e

    def __post_init__(self) -> None:
        """Check the ends and the ratio."""
        super().__post_init__()
        object.__setattr__(self, "ratio", number("ratio", self.ratio, above=1))

    def __call__(self, progress: float) -> float:
        """Return the weight at this progress."""
        return self.start + (self.end - self.start) * (math.pow(self.ratio, progress) - 1) / (self.ratio - 1)


@dataclass(frozen=True)
class Saturating(Between):
    """From `start` towards `end`, fast at first: start + (end - start) (2 / (1 + exp(-slope * progress)) - 1).

    Args:
        start: The weight at the first step.
        end: What the weight comes close to.
        slope: How fast; at 10 the end is missed by a ten-thousandth of the way.

    Raises:
        ValueError: If an end is negative or not finite, or `slope` is not positive.

    Example:
        >>> from hf_abkd.stages.schedules import Saturating
        >>> schedule = Saturating(start=0.0, end=1.0)
        >>> [round(schedule(progress), 2) for progress in (0.0, 0.5, 1.0)]
        [0.0, 0.99, 1.0]
    """

    slope: float = 10.0

    def __post_init__(self) -> None:
        """Check the ends and the slope."""
        super().__post_init__()
        object.__setattr__(self, "slope", number("slope", self.slope, above=0))

    def __call__(self, progress: float) -> float:
        """Return the weight at this progress."""
        return self.start + (self.end - self.start) * (2 / (1 + math.exp(-self.slope * progress)) - 1)


@dataclass(frozen=True)
class Product(Schedule):
    """The product of two schedules.

    Example:
        >>> from hf_abkd.stages.schedules import Linear, Product
        >>> Product(Linear(start=0.0, end=1.0), Linear(start=2.0, end=1.0))(0.5)
        0.75
    """

    first: Schedule
    second: Schedule

    def __call__(self, progress: float) -> float:
        """Return the weight at this progress."""
        return self.first(progress) * self.second(progress)

    def times(self, factor: float) -> Schedule:
        """Return the same schedule times a number."""
        return replace(self, first=self.first.times(factor))
