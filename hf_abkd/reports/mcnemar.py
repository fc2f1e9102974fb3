"""McNemar's test: whether two models that answered the same images differ by more than chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from hf_abkd.reports.intervals import disagreements
from hf_abkd.wording import counted


@dataclass(frozen=True)
class McNemar:
    """What the images say on which just one of two models is right; the others tell nothing.

    Attributes:
        only_one: On how many images only the one is right.
        only_other: On how many only the other.
        p_value: How often as uneven a split as this, or a more uneven one, comes from two models that are equally
            good (exact, two-sided).
    """

    only_one: int
    only_other: int
    p_value: float

    def __str__(self) -> str:
        """Say it in words: "p = 0.013, right alone on 21 images, the other on 7"."""
        p = "p < 0.0001" if self.p_value < 1e-4 else f"p = {self.p_value:.2g}"
        return f"{p}, right alone on {counted(self.only_one, 'image')}, the other on {self.only_other:,}"


def mcnemar(ones: NDArray[np.bool_], others: NDArray[np.bool_]) -> McNemar:
    """Return the exact test of McNemar (Psychometrika 1947) for two models on the same images.

    Args:
        ones: Whether the one is right, for each image, (N,).
        others: Likewise the other.

    Raises:
        ValueError: If they are not as many.

    Example:
        >>> right = np.array([True] * 8 + [False] * 2)
        >>> mcnemar(right, ~right)
        McNemar(only_one=8, only_other=2, p_value=0.109375)
    """
    only_one, only_other = disagreements(ones, others)
    split = only_one + only_other
    # Of no split there is nothing to be surprised at.
    p_value = float(stats.binomtest(only_one, split, 0.5).pvalue) if split else 1.0
    return McNemar(only_one, only_other, p_value)
