"""Overrides: values that the words of a command line put into a recipe, as `stages.0.terms.0.margin=2`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from hf_abkd.recipes.document import Document, Place, parsed
from hf_abkd.wording import listed


def is_override(word: str) -> bool:
    """Whether a word of a command line is an override, and neither a flag nor the name of a file."""
    path, equals, _ = word.partition("=")
    return bool(equals) and all(part.isidentifier() or part.isdecimal() for part in path.split("."))


def overridden(document: Document, words: Sequence[str]) -> Document:
    """Return a document with other values at some places.

    Args:
        document: The document.
        words: What to change: a path of keys and indices from 0 on, joined by dots, and behind a `=` the value, in
            YAML. A key that is not there is added, and so is an entry at the end of a list.

    Raises:
        ValueError: If a word is no override, its value is no YAML, or it leads into something that has no parts.

    Example:
        >>> overridden(parsed("a: {b: [1, 2]}", origin="it"), ["a.b.1=0.5", "c=[x]"]).data
        {'a': {'b': [1, 0.5]}, 'c': ['x']}
    """
    data = copy.deepcopy(document.data) if document.data is not None else {}
    places = dict(document.places)
    for word in words:
        if not is_override(word):
            raise ValueError(
                f"{word!r} is no override: write the keys that lead to a value with dots between them, and the value "
                "behind a '=', as training.learning_rate=1e-3 or stages.0.terms.0.weight=2"
            )
        path, _, text = word.partition("=")
        origin = f"the override {word!r}"
        value = parsed(text, origin=origin)
        place = _put(data, path.split("."), value.data, origin)
        # What stood there is gone, and what stands there now was said on the command line.
        places = {known: where for known, where in places.items() if known[: len(place)] != place}
        places |= {(*place, *inner): origin for inner in value.places} | {place: origin}
        for length in range(1, len(place)):
            places.setdefault(place[:length], origin)
    return Document(data, places, document.origin)


def _put(data: Any, keys: Sequence[str], value: Any, origin: str) -> Place:
    """Put a value into data, and return where it is then."""
    place: list[str | int] = []
    for number, key in enumerate(keys):
        is_last = number == len(keys) - 1
        if isinstance(data, list):
            index = _index(data, key, ".".join(keys[:number]), origin)
            place.append(index)
            if index == len(data):
                data.append({})
            if is_last:
                data[index] = value
            data = data[index]
        elif isinstance(data, dict):
            place.append(key)
            if is_last:
                data[key] = value
            elif data.get(key) is None:
                data[key] = {}
            data = data[key]
        else:
            raise ValueError(f"{origin}: {'.'.join(keys[:number])} is {data!r}, which has no {key}")
    return tuple(place)


def _index(data: Sequence[Any], key: str, path: str, origin: str) -> int:
    """Return the index that a key of a path means in a list."""
    if not key.isdecimal() or int(key) > len(data):
        there = [str(number) for number in range(len(data))]
        raise ValueError(
            f"{origin}: {path} is a list, whose entries are {listed(there, 8)}, and {len(data)} adds one; got {key!r}"
        )
    return int(key)
