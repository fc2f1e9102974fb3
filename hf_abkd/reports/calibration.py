"""Calibration: whether a model is right as often as it says."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: How many bins of equal width the confidences are sorted into.
BINS = 15


def expected_calibration_error(confidences: NDArray[np.floating], right: NDArray[np.bool_], bins: int = BINS) -> float:
    """Return the expected calibration error (ECE), in [0, 1]: how far confidence and accuracy lie apart on average.

    Images are sorted by the confidence of their answer into bins of equal width from 0 to 1; of each bin the distance
    of its mean confidence from its accuracy counts by its share of the images.

    Paper: Guo et al., ICML 2017, https://huggingface.co/papers/1706.04599

    Args:
        confidences: The probability that the model gives its answer, for each image, (N,), in [0, 1].
        right: Whether the answer is right, (N,).
        bins: How many bins.

    Raises:
        ValueError: If there is no image, the two are not as many, or a confidence is no probability.

    Example:
        >>> round(expected_calibration_error(np.array([0.9, 0.9, 0.9, 0.9]), np.array([True, True, True, False])), 4)
        0.15
    """
    if confidences.shape != right.shape or not len(right):
        raise ValueError(f"each image has one answer and one confidence, got {right.shape} and {confidences.shape}")
    # Rounding may leave a softmax a little above 1; a NaN is in no range.
    if not bool(((confidences >= 0) & (confidences <= 1 + 1e-6)).all()):
        raise ValueError("confidences are probabilities, in [0, 1]: pass the softmax of logits, which are finite")
    # A bin holds its upper edge.
    places = np.clip(np.ceil(confidences.astype(np.float64) * bins).astype(int) - 1, 0, bins - 1)
    surplus = np.bincount(places, weights=confidences.astype(np.float64) - right, minlength=bins)
    return float(np.abs(surplus).sum() / len(right))
