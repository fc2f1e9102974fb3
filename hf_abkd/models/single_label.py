"""One class for each image: which models and labels say something else, and are refused for it."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_abkd.models.tasks.task import NO_LABEL

_ONE_CLASS = "Here every image has one class: softmax over the logits, and labels that are class numbers, (N,)."
_OTHER_PROBLEMS = ("multi_label_classification", "regression")
# So far from 1 are sums of bfloat16 probabilities. Logits hardly come so close: all would have to lie in [0, 1], too.
_TOLERANCE = 1e-2


def check_problem(model: object, role: str) -> None:
    """Refuse a model that says in its config that it solves another problem.

    Args:
        model: A model with a config, or a module without one.
        role: "student" or "teacher", for the error.

    Raises:
        ValueError: If its `config.problem_type` is multi-label classification or regression.
    """
    problem = getattr(getattr(model, "config", None), "problem_type", None)
    if problem in _OTHER_PROBLEMS:
        raise ValueError(
            f"the {role} {type(model).__name__} has config.problem_type={problem!r}, which is not supported. "
            f"{_ONE_CLASS} If that is true of this {role} too, set its config.problem_type to "
            "'single_label_classification'"
            + ("; otherwise learn from its features alone, by terms that do not read its logits." * (role == "teacher"))
        )


def check_logits(logits: Tensor, model: object, role: str) -> None:
    """Refuse answers that are no logits over two classes or more.

    Args:
        logits: What the model answered for some images, (N, K).
        model: The model, for the error.
        role: "student" or "teacher", for the error.

    Raises:
        ValueError: If there is a single logit, or the numbers are probabilities: all from 0 to 1, and each row with
            the sum 1.
    """
    what = f"the {role} {type(model).__name__}"
    if logits.shape[1] < 2:
        raise ValueError(
            f"{what} gives one number for each image, and a softmax over one class is constant. {_ONE_CLASS} "
            "Give a model with two classes a logit for each of them."
        )
    if are_probabilities(logits):
        raise ValueError(
            f"{what} returns probabilities, not logits: each row lies between 0 and 1 and sums to 1 (the first is "
            f"{_shown(logits[0])}). Softmax would be applied a second time. Return what its softmax is given; where "
            "that cannot be had, wrap the model and return `probabilities.clamp_min(1e-7).log()`, which softmax turns "
            "back into the same probabilities."
        )


def are_probabilities(logits: Tensor) -> bool:
    """Whether numbers (N, K) are shares of 1 in each row, as a model returns them that ends with a softmax."""
    values = logits.detach().float()
    if not len(values):
        return False
    in_range = (values >= 0).all() & (values <= 1 + _TOLERANCE).all()
    return bool(in_range & ((values.sum(1) - 1).abs() < _TOLERANCE).all())


def check_class_numbers(labels: Tensor, classes: int | None = None) -> None:
    """Refuse labels that are not one class number for each image.

    Args:
        labels: The labels of some images.
        classes: How many classes there are, to compare the numbers with. None looks at shape and type alone, for which
            no device has to be waited for.

    Raises:
        ValueError: If they have another shape, are not integers, or name a class that there is not.
    """
    given = f"labels of shape {tuple(labels.shape)} and type {labels.dtype}"
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise ValueError(
            f"the data set gives {given}: a row of numbers for each image, as multi-label targets are, which are not "
            f"supported. {_ONE_CLASS} If each row marks a single class, give its number: `row.argmax()`."
        )
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(
            f"the data set gives {given}, which is no class number. {_ONE_CLASS} Numbers to be predicted "
            "(regression) are not supported; give integers."
        )
    if classes is not None and (wrong := [n for n in labels.tolist() if n != NO_LABEL and not 0 <= n < classes]):
        raise ValueError(
            f"the data set has the label {wrong[0]}, and the student the {classes} classes 0 to {classes - 1}. "
            + (f"Load the student with num_labels={max(wrong) + 1} or more, or number" if max(wrong) >= 0 else "Number")
            + " the labels from 0."
        )


def _shown(row: Tensor) -> str:
    numbers = [f"{value:.3f}" for value in row.tolist()[:4]]
    return f"[{', '.join(numbers)}{', ...' if len(row) > 4 else ''}]"
