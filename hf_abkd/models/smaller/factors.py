"""Factors: which share of a teacher's blocks and channels a student is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

_HOW = "depth=0.5,width=0.5, or one of the two"


@dataclass(frozen=True)
class Factors:
    """Which share of a teacher's blocks and channels a student is made of.

    Args:
        depth: Share of the blocks, above 0 and at most 1.
        width: Share of the channels, likewise.

    Raises:
        TypeError: If one is no number.
        ValueError: If one is not in that range.
    """

    depth: float = 1.0
    width: float = 1.0

    def __post_init__(self) -> None:
        """Check the range."""
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{one.name} must be a number above 0 and at most 1, got {value!r}")
            if not 0 < value <= 1:
                raise ValueError(
                    f"{one.name} must be above 0 and at most 1, the share of the teacher's that the student gets; "
                    f"got {value:g}"
                )

    @classmethod
    def read(cls, text: str) -> Factors:
        """Return what a flag says, "depth=0.5,width=0.5"; what is left out is 1.

        Raises:
            ValueError: If it says something else, or nothing smaller.
        """
        known = [one.name for one in fields(cls)]
        given: dict[str, float] = {}
        for part in text.split(","):
            name, _, value = part.strip().partition("=")
            if name not in known or name in given:
                what = "is given twice" if name in given else f"is none of {' and '.join(known)}"
                raise ValueError(f"{part.strip()!r} {what}: write {_HOW}")
            try:
                given[name] = float(value)
            except ValueError:
                raise ValueError(f"{part.strip()!r} is no number: write {_HOW}") from None
        factors = cls(**given)
        factors.check_smaller()
        return factors

    def check_smaller(self) -> None:
        """Refuse factors of 1, by which a student would be its teacher.

        Raises:
            ValueError: If both are 1.
        """
        if self.depth == self.width == 1:
            raise ValueError(f"with depth=1 and width=1 the student would be its teacher: write {_HOW}")

    def __str__(self) -> str:
        """Say it as the flag does."""
        return f"depth={self.depth!r},width={self.width!r}"


def share_of(count: int, factor: float) -> int:
    """Return a share of a number of things, a half rounded up, and at least one of them.

    Example:
        >>> [share_of(count, 0.5) for count in (1, 2, 3, 12)]
        [1, 1, 2, 6]
    """
    # 0.35 times 10 is a little less than 3.5 in binary, and means the half.
    return max(1, math.floor(round(count * factor, 6) + 0.5))


def evenly_spaced(count: int, kept: int) -> list[int]:
    """Return which of some blocks are kept: the first, the last, and others evenly between them.

    Example:
        >>> evenly_spaced(12, 4), evenly_spaced(9, 3), evenly_spaced(6, 1)
        ([0, 4, 7, 11], [0, 4, 8], [0])
    """
    if kept == 1:
        # The first block of a stage is the one that takes what comes from the stage before.
        return [0]
    return [math.floor(place * (count - 1) / (kept - 1) + 0.5) for place in range(kept)]
