"""Whether two models are one and the same."""

from __future__ import annotations

import torch
from torch import nn

#: What is said of a student that is its own teacher.
SAME_WEIGHTS = (
    "the student is its teacher: all of its weights are equal to the teacher's, so there is nothing to learn from it. "
    "Is it the student that was meant? A smaller model is, or a config alone, for random weights; only a teacher that "
    "changes with the student, as a mean of its weights, may begin so"
)


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether two models have tensors of the same names, and each of them is equal bit by bit."""
    ours, theirs = one.state_dict(), other.state_dict()
    return bool(ours) and ours.keys() == theirs.keys() and all(_equal(ours[name], theirs[name]) for name in ours)


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other.to(one.device))
