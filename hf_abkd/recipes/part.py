"""Parts: what all schemas of a recipe have in common: no other keys, no other types, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, model_validator
from pydantic_core import PydanticCustomError


class Part(BaseModel):
    """A mapping of a recipe: its keys and their types, and what it stands for.

    Types are taken as they are written: "1" is no number, and 1.0 is no whole one.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())

    #: Makes what the part stands for out of its settings; None for one that stands for nothing by itself.
    makes: ClassVar[Callable[..., Any] | None] = None
    #: Keys that are not settings of what is made.
    tags: ClassVar[frozenset[str]] = frozenset()
    #: What a setting is called where it is made, if the recipe calls it otherwise.
    renamed: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="wrap")
    @classmethod
    def _check(cls, data: Any, validate: ModelWrapValidatorHandler[Part]) -> Part:
        """Refuse other keys, with those there are, and what cannot be made, with what the maker says."""
        if isinstance(data, dict) and (unknown := [key for key in data if key not in cls.model_fields]):
            known = [name for name, field in cls.model_fields.items() if field.exclude is not True]
            raise PydanticCustomError("unknown_keys", "unknown keys", {"keys": unknown, "known": known})
        part = validate(data)
        try:
            part.check()
        except (TypeError, ValueError) as error:
            raise PydanticCustomError("not_possible", "{said}", {"said": str(error)}) from error
        return part

    def given(self) -> dict[str, Any]:
        """Return the settings that were given, as their maker takes them."""
        given = [name for name in type(self).model_fields if name in self.model_fields_set - self.tags]
        return {self.renamed.get(name, name): built(getattr(self, name)) for name in given}

    def check(self) -> None:
        """Refuse settings that do not go together, as what is made of them does.

        Raises:
            TypeError: If one is of a kind that does not fit.
            ValueError: If one is not possible.
        """
        self.build()

    def build(self) -> Any:
        """Return what the part stands for."""
        made_by = type(self).makes
        return None if made_by is None else made_by(**self.given())

    @classmethod
    def build_each(cls, parts: Sequence[Any]) -> list[Any]:
        """Return what each part of a list stands for."""
        return list(map(built, parts))


def built(value: Any) -> Any:
    """Return a value of a recipe with all parts in it made into what they stand for."""
    if isinstance(value, Part):
        return value.build()
    if isinstance(value, dict):
        return {name: built(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)) and value:
        if isinstance(value[0], Part):
            return value[0].build_each(value)
        return type(value)(map(built, value))
    return value
