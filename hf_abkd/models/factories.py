"""Factories: models that a function of the user's makes, named ``package.module:factory``."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

from torch import nn
from transformers import PreTrainedModel

from hf_abkd.wording import listed


def is_factory(name: str) -> bool:
    """Whether a name is of the form ``package.module:factory``, and no path."""
    module, _, factory = name.partition(":")
    return all(part.isidentifier() for part in (*module.split("."), factory)) and not Path(name).exists()


def made_model(what: str, name: str) -> nn.Module:
    """Return what a factory makes; its module may lie in the current folder, as for `python -m`.

    Args:
        what: What to call it in errors: "teacher 'package.module:factory'".
        name: The name of the factory.

    Raises:
        ImportError: If its module cannot be imported.
        ValueError: If the module has no such function.
        TypeError: If it is no function, needs arguments, or returns no module.
    """
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        model = _factory(what, *name.split(":"))()
    finally:
        # Only this entry: the module may have put others on the path, to import from them later.
        if here in sys.path:
            sys.path.remove(here)
    if not isinstance(model, nn.Module):
        raise TypeError(f"{what} returned {type(model).__name__}; it must return a torch.nn.Module")
    return model


def _factory(what: str, module_name: str, attribute: str) -> Callable[[], object]:
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        is_found = error.name is None or not f"{module_name}.".startswith(f"{error.name}.")
        where = f"in {Path.cwd()} and among the installed packages; write its name with dots and without '.py'"
        raise ImportError(
            f"{what}: the module {module_name!r} cannot be imported: {error}"
            + ("" if is_found else f". It is looked for {where}")
        ) from error
    if not hasattr(module, attribute):
        public = [key for key in vars(module) if not key.startswith("_")]
        near = difflib.get_close_matches(attribute, public) or public
        raise ValueError(f"{what}: the module {module_name!r} has no {attribute!r}; it has {listed(sorted(near))}")
    factory: Callable[[], object] = getattr(module, attribute)
    if not callable(factory) or isinstance(factory, nn.Module):
        raise TypeError(
            f"{what}: {attribute!r} is of type {type(factory).__name__}; name a function without arguments that "
            "returns the model"
        )
    signature = inspect.signature(factory)
    try:
        signature.bind()
    except TypeError as error:
        raise TypeError(
            f"{what}: {attribute}{signature} is called without arguments: {error}. Give them default values, or name "
            "a function without arguments that calls it"
        ) from error
    return factory


def made_student(what: str, name: str) -> PreTrainedModel:
    """Return the student that a factory makes; see `made_model`.

    Raises:
        TypeError: If it is no `PreTrainedModel`, too.
    """
    model = made_model(what, name)
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"{what} is a {type(model).__name__}; a student must be a transformers.PreTrainedModel, so that it can be "
            "saved and loaded with its config"
        )
    return model
