"""Copies of a teacher that share its tensors, and a teacher that was prepared with one."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class FastModel:
    """A teacher that was prepared.

    Args:
        model: The model to run: a copy, or the teacher itself if nothing was changed.
        channels_last: Whether its images are to be given in that form.
        report: What was done, in a line.
        differentiable: The model to run for a gradient, likewise: it overwrites nothing and has no whole numbers.
    """

    model: nn.Module
    channels_last: bool
    report: str
    differentiable: nn.Module


def unchanged(model: nn.Module) -> FastModel:
    """Return a teacher as it is."""
    return FastModel(model, False, "", model)


def hooked_part(model: nn.Module) -> str | None:
    """Return the name of a module that a copy might not be able to stand in for."""
    for name, module in model.named_modules():
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
            return name or "the model"
    return None


def sharing_copy(model: nn.Module) -> nn.Module:
    """Return a copy of a model whose modules are its own and whose tensors are those of the model."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in itertools.chain(model.parameters(), model.buffers())})
