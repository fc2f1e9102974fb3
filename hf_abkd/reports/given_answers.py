"""What a model said of labelled images: little enough to be kept of every image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class GivenAnswers:
    """What a model said of some images.

    Attributes:
        labels: The labels of the images, (N,).
        classes: The classes that it said, (N,), numbered as the labels are.
        confidences: The probabilities that it gave them, (N,), in [0, 1].
        right: Whether the answers are right, (N,).
    """

    labels: NDArray[np.int64]
    classes: NDArray[np.int64]
    confidences: NDArray[np.floating]
    right: NDArray[np.bool_]

    def are_of_the_images_of(self, other: GivenAnswers) -> bool:
        """Whether both may be of the same images in one order, as far as the labels show it."""
        return np.array_equal(self.labels, other.labels)
