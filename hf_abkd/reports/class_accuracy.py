"""Accuracy class by class: what the mean over all images hides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hf_abkd.reports.intervals import PairedDifference, paired_difference


def class_accuracy(labels: NDArray[np.int64], right: NDArray[np.bool_], classes: int) -> list[float | None]:
    """Return the share of the images of each class that are right; None for a class without images.

    Args:
        labels: The class of each image, (N,), in [0, classes).
        right: Whether the answer is right, (N,).
        classes: How many classes there are.

    Example:
        >>> class_accuracy(np.array([0, 0, 2]), np.array([True, False, True]), 3)
        [0.5, None, 1.0]
    """
    images = np.bincount(labels, minlength=classes)
    hits = np.bincount(labels, weights=right, minlength=classes)
    return [float(hit / count) if count else None for hit, count in zip(hits, images, strict=True)]


@dataclass(frozen=True)
class ClassChange:
    """How two models differ on the images of one class.

    Attributes:
        label: The class.
        images: How many images it has.
        one: The accuracy of the one model on them.
        other: That of the other.
        difference: How far the one is above the other, in points, with its interval.
    """

    label: int
    images: int
    one: float
    other: float
    difference: PairedDifference


def class_changes(
    labels: NDArray[np.int64], ones: NDArray[np.bool_], others: NDArray[np.bool_], *, most: int
) -> list[ClassChange]:
    """Return the classes on which two models differ most, those where the one loses before those where it gains.

    Args:
        labels: The class of each image, (N,).
        ones: Whether the one model is right, (N,).
        others: Likewise the other.
        most: How many classes at most; those with the same accuracy for both are left out.
    """
    changes = []
    for label in np.unique(labels):
        those = labels == label
        one, other = ones[those], others[those]
        if one.mean() != other.mean():
            difference = paired_difference(one, other)
            changes.append(ClassChange(int(label), len(one), float(one.mean()), float(other.mean()), difference))
    changes = sorted(changes, key=lambda change: -abs(change.difference.value))[:most]
    return sorted(changes, key=lambda change: change.difference.value)


def weakest_classes(accuracies: Sequence[float | None], *, most: int) -> list[int]:
    """Return the classes of the lowest accuracy, the lowest first; those without images are left out."""
    known = [(accuracy, label) for label, accuracy in enumerate(accuracies) if accuracy is not None]
    return [label for _, label in sorted(known)[:most]]
