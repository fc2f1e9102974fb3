"""What objectives on logits have in common: which logits and labels they take, and how far two softmaxes are apart."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def check_classes(objective: str, logits: Tensor) -> None:
    """Refuse logits of fewer than two classes.

    The softmax of one class is 1 whatever the logit: the value would be 0, and nothing would be learnt.

    Args:
        objective: The name of the objective, for the error.
        logits: Those of the student, (N, K).

    Raises:
        ValueError: If there are fewer.
    """
    if logits.shape[-1] < 2:
        raise ValueError(f"{objective} needs at least 2 classes, got logits of {tuple(logits.shape)}")


def labelled(objective: str, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the class of each sample is, bool, (N, K), and which samples have a label, bool, (N,).

    Of a sample without one, -100, the first class is marked; its value is to be left out.

    Args:
        objective: The name of the objective, for the errors.
        logits: Those of the student, (N, K).
        labels: The classes, (N,).

    Raises:
        ValueError: If there are fewer than two classes.
        TypeError: If the labels are not one integer for each sample.
    """
    check_classes(objective, logits)
    if labels.is_floating_point() or labels.shape != logits.shape[:1]:
        raise TypeError(
            f"{objective} needs one integer class per sample, shape ({len(logits)},); got labels of shape "
            f"{tuple(labels.shape)} and type {labels.dtype}"
        )
    known = labels != -100
    is_true = torch.zeros_like(logits, dtype=torch.bool).scatter(1, torch.where(known, labels, 0)[:, None], True)
    return is_true, known


def mean_of_labelled(values: Tensor, known: Tensor) -> Tensor:
    """Return the mean of the values of the samples that have a label, shape (); 0 where none has."""
    return (values * known).sum() / known.sum().clamp(min=1)


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return KL(teacher || student) of the softmaxes of logits (N, K) over a temperature, averaged over samples, ()."""
    return functional.kl_div(
        functional.log_softmax(student / temperature, dim=-1),
        functional.log_softmax(teacher / temperature, dim=-1),
        reduction="batchmean",
        log_target=True,
    )
