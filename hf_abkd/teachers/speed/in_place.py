"""In place: activations overwrite what they are given, wherever nothing else reads it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from hf_abkd.teachers.speed.change import Change
from hf_abkd.teachers.speed.comparison import Comparison
from hf_abkd.teachers.speed.copies import FastModel, sharing_copy
from hf_abkd.teachers.speed.overwriting import overwriting


def _in_place(model: nn.Module, names: Iterable[str]) -> nn.Module:
    """Return a copy of a model in which these activations work in place."""
    fast = sharing_copy(model)
    for name in names:
        activation: Any = fast.get_submodule(name)
        activation.inplace = True
    return fast


def _make(current: FastModel, comparison: Comparison) -> tuple[FastModel, str] | None:
    names = overwriting(current.model, lambda: comparison.tensors(current))
    if not names:
        return None
    return replace(current, model=_in_place(current.model, names)), f"{len(names)} activations in place"


# Of a compiled teacher it makes no difference.
IN_PLACE = Change(lambda model, compiled: not compiled, _make)
