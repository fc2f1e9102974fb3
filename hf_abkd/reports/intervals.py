"""How sure a share of images is: the interval of an accuracy, and of the difference of two on the same images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Share:
    """A share of images, with the interval in which it lies in 95 of 100 draws of as many images.

    Attributes:
        value: The share, in [0, 1].
        low: Where its interval begins (Wilson's score interval).
        high: Where it ends.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Say it in words: "96.55 % (95.15 to 97.56)"."""
        return f"{100 * self.value:.2f} % ({100 * self.low:.2f} to {100 * self.high:.2f})"


def share(hits: NDArray[np.bool_]) -> Share:
    """Return the share of images for which something is so.

    Args:
        hits: Whether it is, for each image, (N,).

    Raises:
        ValueError: If there is no image.

    Example:
        >>> str(share(np.array([True] * 9 + [False])))
        '90.00 % (59.58 to 98.21)'
    """
    if not len(hits):
        raise ValueError("there is no image to measure by")
    number, images = int(hits.sum()), len(hits)
    interval = stats.binomtest(number, images).proportion_ci(_CONFIDENCE, method="wilson")
    return Share(number / images, float(interval.low), float(interval.high))


@dataclass(frozen=True)
class PairedDifference:
    """The difference of two shares of the same images, in percentage points.

    Attributes:
        value: The difference.
        low: Where its 95 % interval begins.
        high: Where it ends.
    """

    value: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        """Say it in words: "+2.1 points (95 % interval +0.9 to +3.3)"."""
        return f"{self.value:+.1f} points (95 % interval {self.low:+.1f} to {self.high:+.1f})"


def disagreements(ones: NDArray[np.bool_], others: NDArray[np.bool_]) -> tuple[int, int]:
    """Return on how many of the same images the one alone is right, and the other alone.

    Args:
        ones: Whether the one is right, for each image, (N,).
        others: Likewise the other.

    Raises:
        ValueError: If they are not as many.
    """
    if ones.shape != others.shape:
        raise ValueError(f"shares of the same images have as many answers, got {ones.shape} and {others.shape}")
    return int((ones & ~others).sum()), int((others & ~ones).sum())


def paired_difference(ones: NDArray[np.bool_], others: NDArray[np.bool_]) -> PairedDifference:
    """Return by how much one share is above another, image by image; images on which both agree tell nothing.

    The interval is Wald's for matched pairs with half an image added to each of the four cells, which keeps it honest
    for few disagreements. Paper: Agresti and Min, Statistics in Medicine 2005, https://doi.org/10.1002/sim.1781

    Args:
        ones: Whether the one is right, for each image, (N,).
        others: Likewise the other.

    Raises:
        ValueError: If they are not as many.

    Example:
        >>> right = np.array([True] * 95 + [False] * 5)
        >>> str(paired_difference(right, np.array([True] * 90 + [False] * 10)))
        '+5.0 points (95 % interval +0.3 to +9.5)'
    """
    better, worse = disagreements(ones, others)
    images = len(ones) + 2
    middle = (better - worse) / images
    deviation = math.sqrt(better + worse + 1 - (better - worse) ** 2 / images) / images
    reach = float(stats.norm.ppf((1 + _CONFIDENCE) / 2)) * deviation
    return PairedDifference(
        100 * (better - worse) / len(ones), 100 * max(-1.0, middle - reach), 100 * min(1.0, middle + reach)
    )
