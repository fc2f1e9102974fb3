"""Names: what the things that a recipe can name are called there, read from the modules in which they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

import torch

from hf_abkd.data import augment, mixing
from hf_abkd.methods import BoundarySamples
from hf_abkd.stages import schedules
from hf_abkd.stages.extension import Extension

#: What makes further images of a batch.
EXTENSIONS: Mapping[str, type[Extension]] = {"boundary_samples": BoundarySamples}


@cache
def schedule_names() -> Mapping[str, type[schedules.Schedule]]:
    """Return the schedules by their names: `linear`, `cosine` and so on."""
    bases = (schedules.Schedule, schedules.Between)
    return {
        _snake(kind.__name__): kind
        for kind in vars(schedules).values()
        if isinstance(kind, type) and issubclass(kind, schedules.Schedule) and kind not in bases
    }


@cache
def augmentation_names() -> Mapping[str, type]:
    """Return the augmentations by their names: `random_crop` and so on; several of them are a list."""
    return {
        _snake(kind.__name__): kind
        for module in (augment, mixing)
        for kind in vars(module).values()
        if isinstance(kind, type) and kind.__module__ == module.__name__ and kind is not augment.Compose
    }


@cache
def optimizer_names() -> Mapping[str, type[torch.optim.Optimizer]]:
    """Return the optimisers of torch by the names of their classes, but for one that calls the model itself."""
    return {
        name: kind
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and name not in ("Optimizer", "LBFGS")
    }


def name_of(kind: type, names: Mapping[str, type]) -> str | None:
    """Return what a class is called in a table; None if it is not there."""
    return next((name for name, one in names.items() if one is kind), None)


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
