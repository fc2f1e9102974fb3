"""Whether two models are one and the same."""

from __future__ import annotations

import torch
from torch import nn

from hf_abkd.models.placement import held_tensor

#: What is said of a student that is its own teacher.
SAME_WEIGHTS = (
    "the student is its teacher: all of its weights are equal to the teacher's, so there is nothing to learn from it. "
    "Is it the student that was meant? A smaller model is, or a config alone, for random weights; only a teacher that "
    "changes with the student, as a mean of its weights, may begin so"
)


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether two models have tensors of the same names, and each of them is equal bit by bit."""
    ours, theirs = one.state_dict(), other.state_dict()
    return (
        bool(ours)
        and ours.keys() == theirs.keys()
        and all(ours[name].shape == theirs[name].shape and ours[name].dtype == theirs[name].dtype for name in ours)
        and all(_equal(held_tensor(one, name, ours[name]), held_tensor(other, name, theirs[name])) for name in ours)
    )


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one, other.to(one.device))
