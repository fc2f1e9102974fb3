"""Whether a teacher is better than guessing, and better by one order of its classes than by another."""

from __future__ import annotations

import math

# Between so many standard deviations lie 99 of 100 measurements.
_DEVIATIONS = 2.576


def is_near_chance(accuracy: float, chance: float) -> bool:
    """Whether a teacher is hardly better than always answering the commonest class; both are shares in [0, 1]."""
    return accuracy < near_chance(chance)


def near_chance(chance: float) -> float:
    """Return the accuracy below which a teacher is hardly better than guessing; both are shares in [0, 1]."""
    # Where one class is most of the data, no teacher has one and a half times its share.
    return min(1.5 * chance, (1 + chance) / 2)


def interval(share: float, samples: int) -> tuple[float, float]:
    """Return between which shares the true one lies, 99 times in 100, by Wilson's interval.

    Args:
        share: What was measured, in [0, 1].
        samples: On how many independent samples.
    """
    squared = _DEVIATIONS**2 / samples
    centre = (share + squared / 2) / (1 + squared)
    half = math.sqrt(share * (1 - share) / samples + squared / samples / 4) * _DEVIATIONS / (1 + squared)
    return max(0.0, centre - half), min(1.0, centre + half)


def is_clearly_better(hits: int, other: int, images: int, commonest: int) -> bool:
    """Whether right answers speak for one reading of a teacher's classes, against another and against guessing.

    Args:
        hits: How many answers are right by the one reading.
        other: How many are right by the other.
        images: How many images there are.
        commonest: How many of them are of the commonest class.

    Example:
        >>> is_clearly_better(90, 2, 100, 20), is_clearly_better(4, 0, 8, 2), is_clearly_better(30, 2, 100, 40)
        (True, False, False)
    """
    if not images or is_near_chance(hits / images, commonest / images):
        return False
    # Three standard deviations of what the difference would be if neither were right more often.
    return hits - other >= 3 * math.sqrt(hits + other)
