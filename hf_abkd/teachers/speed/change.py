"""Change: one way to make a teacher faster, all of the same shape, so that they are tried one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from hf_abkd.teachers.speed.comparison import Comparison
from hf_abkd.teachers.speed.copies import FastModel


@dataclass(frozen=True)
class Change:
    """One way to make a teacher faster without changing what it says.

    Args:
        suits: Whether it is made unless the user says otherwise: of which models, and whether they are compiled.
        make: Makes it in a copy of what earlier changes gave, and says in a few words what was done. It returns None
            if there is nothing to change.
    """

    suits: Callable[[nn.Module, bool], bool]
    make: Callable[[FastModel, Comparison], tuple[FastModel, str] | None]
