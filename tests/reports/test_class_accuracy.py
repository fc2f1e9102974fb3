"""Accuracy class by class."""

import numpy as np
import pytest

from hf_abkd.reports.class_accuracy import class_accuracy, class_changes, weakest_classes

LABELS = np.array([0] * 10 + [1] * 10 + [3] * 4)


def right(*counts):
    """Right on so many of the images of the classes 0, 1 and 3."""
    return np.concatenate([np.arange(size) < count for size, count in zip((10, 10, 4), counts, strict=True)])


def test_a_class_without_images_has_no_accuracy():
    """A 0 in its place is the worst class of every model."""
    found = class_accuracy(LABELS, right(5, 10, 1), 4)
    assert found == [0.5, 1.0, None, 0.25]
    assert weakest_classes(found, most=2) == [3, 0]


def test_changes_are_told_from_the_largest_loss_to_the_largest_gain():
    """A student of the same accuracy may have lost a class altogether."""
    found = class_changes(LABELS, right(2, 10, 4), right(9, 8, 3), most=5)
    assert [(one.label, one.images) for one in found] == [(0, 10), (1, 10), (3, 4)]
    assert [one.difference.value for one in found] == pytest.approx([-70, 20, 25])
    assert (found[0].one, found[0].other) == (0.2, 0.9)
    assert [one.label for one in class_changes(LABELS, right(2, 10, 4), right(9, 8, 3), most=2)] == [0, 3]
    assert class_changes(LABELS, right(2, 10, 4), right(2, 10, 4), most=5) == []
