"""Disagreement: the images to which two models give other classes, those first on which they are farthest apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special


@dataclass(frozen=True)
class Answer:
    """What a model says of an image.

    Attributes:
        label: The class.
        probability: How sure it is, in [0, 1].
    """

    label: int
    probability: float


@dataclass(frozen=True)
class Disagreement:
    """An image of which two models say other classes.

    Attributes:
        place: Which image it is.
        one: What the one says.
        other: What the other says.
        distance: The total variation distance of what they say, in [0, 1].
    """

    place: int
    one: Answer
    other: Answer
    distance: float


def disagreements(
    ones: NDArray[np.floating], others: NDArray[np.floating], *, most: int
) -> tuple[int, list[Disagreement]]:
    """Return on how many images two models say other classes, and those on which they are farthest apart.

    Args:
        ones: The logits of the one, (N, K).
        others: Those of the other, of the same classes.
        most: How many images are returned at most.

    Raises:
        ValueError: If they are not of the same images and classes.

    Example:
        >>> count, (first,) = disagreements(np.array([[9.0, 0], [0, 9]]), np.array([[0, 9.0], [0, 9]]), most=1)
        >>> count, first.place, first.one.label, first.other.label
        (1, 0, 0, 1)
    """
    if ones.shape != others.shape:
        raise ValueError(f"answers to the same images have one shape, got {ones.shape} and {others.shape}")
    first, second = special.softmax(ones, axis=1), special.softmax(others, axis=1)
    labels, other_labels = first.argmax(1), second.argmax(1)
    distances = np.abs(first - second).sum(1) / 2
    places = np.flatnonzero(labels != other_labels)
    chosen = places[np.argsort(-distances[places], kind="stable")][:most]
    found = [
        Disagreement(
            int(place),
            Answer(int(labels[place]), float(first[place].max())),
            Answer(int(other_labels[place]), float(second[place].max())),
            float(distances[place]),
        )
        for place in chosen
    ]
    return len(places), found
