"""Schemas: what a file holds is checked as a whole, against a dataclass, before any of it is used.

Files come from disks that fill up, from the Hub and from editors. A key that is missing, a text where a number belongs
or bytes that are no text would else end somewhere else, as an error that names neither the file nor the place in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

T = TypeVar("T")

#: A whole number from 1 on.
Positive = Annotated[int, Field(ge=1)]
#: A whole number from 0 on.
NotNegative = Annotated[int, Field(ge=0)]
#: A number that is neither infinite nor not a number.
Finite = Annotated[float, Field(allow_inf_nan=False)]

_MOST_PROBLEMS = 3
_LONGEST_VALUE = 60


def read_text(path: Path, *, remedy: str) -> str:
    """Return the text of a file.

    Args:
        path: The file.
        remedy: What to do if it is damaged, as a sentence.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged: it is no text in UTF-8 ({error.reason}). {remedy}") from error


def read_json(path: Path, *, remedy: str) -> Any:
    """Return what a JSON file holds, unchecked; arguments and errors are those of `read_text`."""
    text = read_text(path, remedy=remedy)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: it is no JSON ({error}). {remedy}") from error


def checked(data: object, schema: type[T], *, origin: str | Path, remedy: str) -> T:
    """Return data as an instance of a schema.

    Types are taken strictly, as JSON has them: "1" and 1.0 are no whole numbers. Keys that the schema does not have are
    left out, as a later version may have written them.

    Args:
        data: What was read: lists, mappings with text as keys, text, numbers, booleans and None.
        schema: A dataclass, or another type that pydantic knows.
        origin: Where it stood, for the error.
        remedy: What to do if it does not fit, as a sentence.

    Raises:
        ValueError: If it does not fit; the message has the places and what belongs there.

    Example:
        >>> checked({"a": 1}, dict[str, int], origin="it", remedy="Write it again.")
        {'a': 1}
        >>> checked({"a": "1"}, dict[str, int], origin="it", remedy="Write it again.")
        Traceback (most recent call last):
        ValueError: it is damaged: a should be a valid integer, got '1'. Write it again.
    """
    try:
        # Through JSON, which has the lists that become tuples and the mappings that become dataclasses.
        return TypeAdapter(schema).validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        problems = [_problem(part) for part in error.errors(include_url=False)]
    except (TypeError, ValueError, RecursionError) as error:
        problems = [str(error)]
    more = f"; and {len(problems) - _MOST_PROBLEMS} more" if len(problems) > _MOST_PROBLEMS else ""
    raise ValueError(f"{origin} is damaged: {'; '.join(problems[:_MOST_PROBLEMS])}{more}. {remedy}")


def _problem(error: Mapping[str, Any]) -> str:
    """Return what is wrong at one place."""
    place = _place(error["loc"])
    if error["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{place} is missing"
    if error["type"] == "value_error":
        # Raised by a dataclass of ours, in whole words.
        return f"{place}: {error['ctx']['error']}" if place else str(error["ctx"]["error"])
    value = repr(error["input"])
    value = value if len(value) <= _LONGEST_VALUE else f"{value[:_LONGEST_VALUE]}..."
    return f"{place or 'all of it'} {error['msg'].removeprefix('Input ')}, got {value}"


def _place(parts: Sequence[str | int]) -> str:
    """Return the place of a value, as one would write it: `columns[0].kind`."""
    place = ""
    for part in parts:
        place += f"[{part}]" if isinstance(part, int) else f".{part}" if place else part
    return place
