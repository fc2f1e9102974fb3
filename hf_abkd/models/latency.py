"""Latency: how long models take for a batch, timed in turns so that what else the machine does falls on all of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

_WARM_UP = 3
# Turns end when there are enough of them, or when they took long enough and there are a few.
_TURNS, _FEWEST, _SECONDS = 40, 7, 10.0
# What is timed beside other work has fewer of them, and is left out where it would take longer than the last number.
_BRIEF_TURNS, _BRIEF_FEWEST, _BRIEF_SECONDS, _PATIENCE = 20, 5, 0.5, 4.0


@dataclass(frozen=True)
class Latency:
    """How long a model takes for a batch.

    Attributes:
        batch_size: How many images the batch has.
        turns: How often it was timed.
        milliseconds: The median.
        low: The first quartile.
        high: The third.
    """

    batch_size: int
    turns: int
    milliseconds: float
    low: float
    high: float

    @property
    def images_per_second(self) -> float:
        """How many images the model takes in a second, in batches of this size."""
        return 1000 * self.batch_size / self.milliseconds


def latencies(
    runs: Sequence[Callable[[], object]],
    batch_size: int,
    *,
    finish: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Latency]:
    """Time some models on a batch, one after the other in each turn, and each of them first in some turns.

    Args:
        runs: Each runs a model on the batch.
        batch_size: How many images the batch has.
        finish: Waits until a device has done what it was asked to.
        clock: Tells the time in seconds.

    Raises:
        ValueError: If there is nothing to time.
    """
    if not runs:
        raise ValueError("there is no model to time")
    for run in runs:
        for _ in range(_WARM_UP):
            run()
    finish()
    return _in_turns(runs, batch_size, finish, clock, turns=_TURNS, fewest=_FEWEST, at_most=_SECONDS)


def brief_latencies(
    runs: Sequence[Callable[[], object]],
    batch_size: int,
    *,
    finish: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Latency] | None:
    """Time some models in half a second, or in a few where they are slow; None if even that would not do.

    Args:
        runs: Each runs a model on the batch.
        batch_size: How many images the batch has.
        finish: Waits until a device has done what it was asked to.
        clock: Tells the time in seconds.
    """
    began = clock()
    for run in runs:
        run()
        finish()
        # The first pass is the slowest, as a device still chooses how to compute.
        if (clock() - began) * _BRIEF_FEWEST > _PATIENCE:
            return None
    turns: dict[str, Any] = {"turns": _BRIEF_TURNS, "fewest": _BRIEF_FEWEST, "at_most": _BRIEF_SECONDS}
    return _in_turns(runs, batch_size, finish, clock, **turns)


def _in_turns(
    runs: Sequence[Callable[[], object]],
    batch_size: int,
    finish: Callable[[], object],
    clock: Callable[[], float],
    *,
    turns: int,
    fewest: int,
    at_most: float,
) -> list[Latency]:
    """Time models that are warm, until there are enough turns, or a few that took so many seconds."""
    seconds: list[list[float]] = [[] for _ in runs]
    with _nothing_collected():
        began = clock()
        for turn in range(turns):
            for place in range(len(runs)):
                number = (turn + place) % len(runs)
                start = clock()
                runs[number]()
                finish()
                seconds[number].append(clock() - start)
            if turn + 1 >= fewest and clock() - began > at_most:
                break
    return [_latency(batch_size, times) for times in seconds]


def _latency(batch_size: int, seconds: Sequence[float]) -> Latency:
    low, median, high = (1000 * float(value) for value in np.percentile(seconds, [25, 50, 75]))
    return Latency(batch_size, len(seconds), median, low, high)


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """Put garbage collection off, which otherwise falls on whichever model is just timed."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
