"""Derived parts: the schema of what is made by a call, read from its signature, types and docstring."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Literal, get_type_hints

from pydantic import Field, create_model
from torch import nn

from hf_abkd.recipes.annotations import InexpressibleError, in_recipe
from hf_abkd.recipes.part import Part

_ARGUMENTS = re.compile(r"^ *Args:\n(.*?)(?=^ {0,4}\w+:\n|\Z)", re.MULTILINE | re.DOTALL)
_ARGUMENT = re.compile(r"^ {4}(\w+): (.*?)(?=^ {4}\w|\Z)", re.MULTILINE | re.DOTALL)


def part_of(
    made_by: Callable[..., Any],
    known: Callable[[type], Any],
    *,
    name: str | None = None,
    tag: tuple[str, str] | None = None,
    base: type[Part] = Part,
    without: AbstractSet[str] = frozenset(),
    limits: Mapping[str, Mapping[str, Any]] | None = None,
) -> type[Part]:
    """Return the schema of the settings of a class or function.

    Settings that no recipe can hold, as modules, are left out if they have a default.

    Args:
        made_by: What is called with the settings.
        known: Returns what stands for a class of this package.
        name: What the schema is called; by default after what is made.
        tag: A key and what it says, by which this schema is told from others.
        base: What else the part holds: its fields are not settings of what is made. A setting of the name of such a
            field is written with the value of the tag's key in front, as `objective_weight`.
        without: Settings that are left out.
        limits: What else pydantic checks of a setting, as `{"ge": 0}`.

    Raises:
        InexpressibleError: If a setting without a default cannot be written in a recipe.
    """
    texts = argument_texts(made_by)
    fields: dict[str, Any] = {}
    renamed: dict[str, str] = {}
    for setting, (annotation, default) in parameters_of(made_by).items():
        if setting in without:
            continue
        try:
            written = in_recipe(annotation, known)
        except InexpressibleError as error:
            if default is not inspect.Parameter.empty:
                continue
            raise InexpressibleError(f"{made_by.__name__}: its setting {setting} of type {error}") from error
        # Only a schema for editors reads a default: what is not given is not passed on.
        key = setting if tag is None else setting_key(setting, tag[0], {*base.model_fields, tag[0]})
        renamed |= {} if key == setting else {key: setting}
        fields[key] = (written, _field(default, texts.get(setting), (limits or {}).get(setting, {})))
    tags = frozenset(base.model_fields) | ({tag[0]} if tag else set())
    if tag is not None:
        fields = {tag[0]: (Literal[tag[1]], ...), **fields}
    part: type[Part] = create_model(name or made_by.__name__, __base__=base, __doc__=_first_line(made_by), **fields)
    # What a base makes of all of its fields, it makes.
    part.makes, part.tags, part.renamed = staticmethod(made_by), tags, renamed
    return part


def setting_key(setting: str, tag: str, taken: AbstractSet[str]) -> str:
    """Return what a setting is called in a recipe, where some names stand for something else beside it."""
    return f"{tag}_{setting}" if setting in taken else setting


def parameters_of(made_by: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """Return the type and the default of each setting that a call takes by its name."""
    called = made_by.__init__ if isinstance(made_by, type) else made_by  # type: ignore[misc]
    hints = get_type_hints(made_by if dataclasses.is_dataclass(made_by) else called, include_extras=True)
    found = {}
    for parameter in inspect.signature(made_by).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            continue
        default = parameter.default
        if dataclasses.is_dataclass(made_by):
            # The signature shows a factory as a value of its own kind.
            field = made_by.__dataclass_fields__[parameter.name]
            if field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
        found[parameter.name] = (hints.get(parameter.name, Any), default)
    return found


def models_read(made_by: Callable[..., Any]) -> tuple[str, ...]:
    """Return which models a call has to be given, by the names of its arguments."""
    return tuple(name for name, (annotation, _) in parameters_of(made_by).items() if annotation is nn.Module)


def argument_texts(made_by: Callable[..., Any]) -> Mapping[str, str]:
    """Return what the docstring, or the help of a dataclass's fields, says of each setting, in a line."""
    section = _ARGUMENTS.search(inspect.getdoc(made_by) or "")
    texts = {} if section is None else dict(_ARGUMENT.findall(section[1]))
    if isinstance(made_by, type) and dataclasses.is_dataclass(made_by):
        texts |= {one.name: one.metadata["help"] for one in dataclasses.fields(made_by) if "help" in one.metadata}
    return {name: " ".join(text.split()) for name, text in texts.items()}


def _field(default: Any, text: str | None, limits: Mapping[str, Any]) -> Any:
    if default is inspect.Parameter.empty:
        return Field(description=text, **limits)
    return Field(default=default if is_plain(default) else None, description=text, **limits)


def is_plain(value: Any) -> bool:
    """Whether a value can stand in a schema for editors as it is."""
    if isinstance(value, (tuple, list)):
        return all(map(is_plain, value))
    return type(value) in (bool, int, float, str, types.NoneType)


def _first_line(made_by: Callable[..., Any]) -> str:
    return (inspect.getdoc(made_by) or "").partition("\n")[0]
