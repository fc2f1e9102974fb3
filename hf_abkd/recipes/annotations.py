"""Annotations: what a setting that has a type in Python looks like in a recipe.

Settings are declared once, where they are used: in the signature of an objective, a schedule, an augmentation or a
method. What stands there is turned into what pydantic checks, so that a new one needs no schema of its own.
"""

from __future__ import annotations

import enum
import os
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ForwardRef, Literal, Optional, Union, get_args, get_origin

from pydantic import Discriminator, Field, Tag, WrapValidator

from hf_abkd.recipes.part import Part

_PLAIN = (bool, int, float, str)
# What a value of a recipe can be, as errors call it.
NOTHING, FLAG, NUMBER, TEXT, LIST, MAPPING = "nothing", "true or false", "a number", "text", "a list", "a mapping"


def _as_written(value: Any, check: Callable[[Any], float]) -> Any:
    """Leave a whole number that stands where any may as it is: 2.0 would no longer be the setting that was written."""
    check(value)
    return value


_NUMBER = Annotated[float, WrapValidator(_as_written)]


class InexpressibleError(TypeError):
    """Raised for a type that no value of a recipe can stand for, such as a module or a function."""


def in_recipe(annotation: Any, known: Callable[[type], Any]) -> Any:
    """Return the type that pydantic checks where a setting has this one.

    Of a union the members that a recipe cannot hold are left out, as a user of Python may give more.

    Args:
        annotation: The type of the setting, with its names looked up.
        known: Returns what stands for a class of this package.

    Raises:
        InexpressibleError: If no value of a recipe can be of it.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in (None, types.NoneType):
        return None
    if annotation is float:
        return _NUMBER
    if annotation in _PLAIN or annotation is Any or origin is Literal or isinstance(annotation, ForwardRef):
        return annotation
    if origin is Annotated:
        inside: Any = (in_recipe(arguments[0], known), *arguments[1:])
        return Annotated[inside]
    if origin in (Union, types.UnionType):
        return _union(arguments, known)
    if origin is tuple:
        # A list is all that a recipe can write.
        inner = tuple(one if one is ... else in_recipe(one, known) for one in arguments)
        return Annotated[tuple[inner], Field(strict=False)]  # type: ignore[valid-type]
    if _is_a(origin, Mapping):
        return dict[str, in_recipe(arguments[1], known)]  # type: ignore[misc]
    if annotation in (dict, Mapping):
        return dict[str, Any]
    if _is_a(origin, Sequence):
        return list[in_recipe(arguments[0], known)]  # type: ignore[misc]
    if _is_a(annotation, enum.Enum):
        return Literal[tuple(one.value for one in annotation)]
    if annotation is os.PathLike or origin is os.PathLike:
        return str
    if isinstance(annotation, type) and annotation.__module__.startswith("hf_abkd."):
        return known(annotation)
    raise InexpressibleError(f"{annotation!r} cannot be written in a recipe")


def _union(members: Sequence[Any], known: Callable[[type], Any]) -> Any:
    """Return a union that is told apart by what kind of value there is, so that an error speaks of one member."""
    # A name that is one of some, or any other text, is one of them: the others would be refused later.
    if any(_is_a(member, enum.Enum) for member in members):
        members = [member for member in members if member is not str]
    of_kind: dict[str, list[Any]] = {}
    for member in members:
        try:
            written = in_recipe(member, known)
        except InexpressibleError:
            continue
        kinds = of_kind.setdefault(kind_of_type(written), [])
        if written not in kinds:
            kinds.append(written)
    if not set(of_kind) - {NOTHING}:
        raise InexpressibleError(f"{members!r} cannot be written in a recipe")
    if len(of_kind) == 1:
        return Union[tuple(*of_kind.values())]  # noqa: UP007
    if len(of_kind) == 2 and NOTHING in of_kind:
        (alone,) = (one for kind, one in of_kind.items() if kind != NOTHING)
        return or_nothing(Union[tuple(alone)])  # noqa: UP007
    return by_kind({kind: Union[tuple(one)] for kind, one in of_kind.items()})  # noqa: UP007


def or_nothing(written: Any) -> Any:
    """Return a type that may be left out."""
    return Optional[written]  # noqa: UP045


def by_kind(types_of: Mapping[str, Any]) -> Any:
    """Return a union of types that are told apart by what kind of value there is, so that an error speaks of one."""
    tagged = tuple(Annotated[written, Tag(f"<{kind}>")] for kind, written in types_of.items())
    return Annotated[Union[tagged], Discriminator(kind_of_value)]  # noqa: UP007


def kind_of_type(written: Any) -> str:
    """Return what kind of value a type takes."""
    written = get_args(written)[0] if get_origin(written) is Annotated else written
    origin = get_origin(written)
    if written is None:
        return NOTHING
    if written is bool:
        return FLAG
    if written in (int, float):
        return NUMBER
    if written is str or (origin is Literal and isinstance(get_args(written)[0], str)):
        return TEXT
    if origin is Literal:
        return FLAG if isinstance(get_args(written)[0], bool) else NUMBER
    return LIST if origin in (list, tuple) else MAPPING


def kind_of_value(value: Any) -> str:
    """Return what kind of value there is, as the tag of a union."""
    kinds: dict[type, str] = {bool: FLAG, int: NUMBER, float: NUMBER, str: TEXT, list: LIST, tuple: LIST}
    kind = NOTHING if value is None else kinds.get(type(value), MAPPING)
    return f"<{kind}>"


def chosen_by(key: str, parts: Mapping[str, type[Part]]) -> Any:
    """Return the union of mappings that say by a key which of some they are.

    Args:
        key: The key.
        parts: The mappings, by what the key says.
    """

    def tag(value: Any) -> str:
        named = value.get(key) if isinstance(value, dict) else getattr(value, key, None)
        return f"<{key}={named}>"

    tagged = tuple(Annotated[part, Tag(f"<{key}={name}>")] for name, part in parts.items())
    return Annotated[Union[tagged], Discriminator(tag)]  # noqa: UP007


def _is_a(kind: Any, base: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, base)
