"""What answers tell of a model: how often it is right, how sure it is of that, and how it compares with others."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_abkd.reports.agreement import Agreement
from hf_abkd.reports.calibration import expected_calibration_error
from hf_abkd.reports.class_accuracy import class_accuracy, class_changes
from hf_abkd.reports.evaluation import Against
from hf_abkd.reports.given_answers import GivenAnswers
from hf_abkd.reports.intervals import paired_difference, share
from hf_abkd.reports.mcnemar import mcnemar

# In so many classes two models differ most.
_CHANGES = 3


def judged(
    labels: NDArray[np.int64], right: NDArray[np.bool_], confidences: NDArray[np.floating], classes: int
) -> dict[str, Any]:
    """Return how often a model is right and how sure it is of that, by the names of `ModelEvaluation`.

    Args:
        labels: The class of each image, (N,), in [0, classes).
        right: Whether the answers are right, (N,).
        confidences: Their probabilities, (N,).
        classes: How many classes there are.
    """
    return {
        "accuracy": share(right),
        "calibration_error": expected_calibration_error(confidences, right),
        "class_accuracy": class_accuracy(labels, right, classes),
    }


def against(
    role: str, name: str, labels: NDArray[np.int64], ones: NDArray[np.bool_], others: NDArray[np.bool_]
) -> Against:
    """Return one model against another one on the same images.

    Args:
        role: The role of the other.
        name: Where the other comes from.
        labels: The class of each image, (N,).
        ones: Whether the one is right, (N,).
        others: Whether the other is.
    """
    changes = class_changes(labels, ones, others, most=_CHANGES)
    return Against(role, name, paired_difference(ones, others), mcnemar(ones, others), changes)


def agreement_of_answers(ones: GivenAnswers, teacher: GivenAnswers) -> Agreement:
    """Return on how many of the same images a model says the class that its teacher says; more is not kept."""
    return Agreement(share(ones.classes == teacher.classes), None, None)
