"""Routes: the weights that a teacher takes on, one set after another, while a stage runs; data for the trainer."""

from __future__ import annotations

import copy
import itertools
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hf_abkd.settings import number

#: Measures how far the student is from an anchor, given the anchor's index; see `TeacherRoute.choose`.
Hardness = Callable[[int], float]


class TeacherRoute:
    """Anchors for the run's teacher, in order: each is its weights for a part of the stage.

    An anchor is a local folder with `model.safetensors` and, of a Hugging Face model, `config.json`: a checkpoint of
    the teacher's training, for example. All of them have the architecture of the run's teacher. A subclass may choose
    among its anchors while the student learns.

    Args:
        anchors: The folders, those that the student learns from first in front.
        shares: How the stage divides into parts, one for each anchor; they add up to 1. By default evenly.

    Raises:
        TypeError: If `anchors` is a single name.
        ValueError: If there are none, or the shares are not possible.

    Example:
        >>> from hf_abkd.teachers.route.route import TeacherRoute
        >>> route = TeacherRoute(["teacher/checkpoint-500", "teacher/checkpoint-1000"], shares=[0.25, 0.75])
        >>> [route.part_at(done, steps=8) for done in range(8)]
        [0, 0, 1, 1, 1, 1, 1, 1]
    """

    #: What a subclass measures the student's distance from an anchor on: a data set prepared like the training set.
    data: Any = None

    def __init__(self, anchors: Sequence[str | os.PathLike[str]], *, shares: Sequence[float] | None = None) -> None:
        if isinstance(anchors, (str, os.PathLike)):
            raise TypeError(f"anchors must be a list of folders, got {str(anchors)!r}; write [{str(anchors)!r}]")
        self.anchors = tuple(Path(anchor) for anchor in anchors)
        if not self.anchors:
            raise ValueError("a route needs at least one anchor, a folder with weights of the teacher")
        shares = [1 / len(self.anchors)] * len(self.anchors) if shares is None else shares
        self.shares = tuple(float(number("each of shares", share, above=0, most=1)) for share in shares)
        #: The only part that a stage takes of the route; None for all of them. See `only`.
        self.part: int | None = None
        self._check_parts()
        if not math.isclose(sum(self.shares), 1, rel_tol=1e-6):
            raise ValueError(f"shares must add up to 1, got {list(self.shares)}")

    def _check_parts(self) -> None:
        if len(self.shares) != len(self.anchors):
            raise ValueError(f"{len(self.anchors)} anchors need as many shares, got {len(self.shares)}")

    def only(self, part: int) -> TeacherRoute:
        """Return the route of a stage that consists of one part of this one."""
        route = copy.copy(self)
        route.part = part
        return route

    def __deepcopy__(self, memo: object) -> TeacherRoute:
        # Never changed once it is made, and it may hold a data set.
        return self

    def check_length(self, steps: int) -> None:
        """Check that a stage of so many steps has one for each part.

        Raises:
            ValueError: If it has not.
        """
        ends = self._ends(steps)
        if any(end <= start for start, end in itertools.pairwise([0, *ends])):
            raise ValueError(
                f"{steps} steps cannot be divided into parts of {[round(share, 3) for share in self.shares]} with at "
                "least one step each: train longer, or take fewer anchors"
            )

    def part_at(self, done: int, steps: int) -> int:
        """Return which part the next step belongs to, when so many of the stage's steps are done."""
        if self.part is not None:
            return self.part
        return next((part for part, end in enumerate(self._ends(steps)) if done < end), len(self.shares) - 1)

    def _ends(self, steps: int) -> list[int]:
        """Return after how many steps each part is over; the last at the end of the stage, whatever is rounded."""
        if self.part is not None:
            return [steps]
        return [*(round(share * steps) for share in itertools.accumulate(self.shares[:-1])), steps]

    def choose(self, part: int, before: int | None, hardness: Hardness) -> int:
        """Return which anchor, by its index, the student learns from in a part.

        Called once for each part, when it begins; what it returns is kept in checkpoints.

        Args:
            part: The part, from 0.
            before: The anchor of the part before; None if there was none.
            hardness: Measures the mean Kullback-Leibler divergence of the student, as it is now, from an anchor on
                `data`, in nats.
        """
        return part

    def describe(self) -> str:
        """Return what defines the route besides its weights, for checkpoints and cards."""
        parts = "" if self.part is None else f", part {self.part + 1}"
        return f"{len(self.anchors)} anchors over {', '.join(f'{share:.4g}' for share in self.shares)}{parts}"
