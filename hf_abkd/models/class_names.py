"""Names of classes: which say something, which are the same, and in which order numbers in them count."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence


def normalized(name: str) -> str:
    """Return a class name without what differs between writers.

    That is case, spaces, underscores or hyphens, and how accents are stored; and of a number, zeros before it.
    """
    text = re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFC", name).casefold()).strip()
    return str(int(text)) if text.isascii() and text.isdigit() else text


def is_default(names: Sequence[str]) -> bool:
    """Whether these are the names that transformers makes up: "LABEL_0", "LABEL_1", ..."""
    return all(name == f"LABEL_{index}" for index, name in enumerate(names))


def in_order(role: str, id2label: Mapping[int, str] | None, count: int) -> tuple[str, ...] | None:
    """Return the names of a model's classes in their order, or None if there are none but default ones.

    Args:
        role: "student" or "teacher", for the error.
        id2label: The model's `config.id2label`; its keys may be digits.
        count: How many logits the model gives.

    Raises:
        ValueError: If there is not one name for each logit.
    """
    by_key = {str(key): str(name) for key, name in (id2label or {}).items()}
    if is_default([by_key.get(str(index), "") for index in range(len(by_key))]):
        return None
    missing = [index for index in range(count) if str(index) not in by_key]
    if missing or len(by_key) != count:
        raise ValueError(
            f"`config.id2label` of the {role} names {len(by_key)} classes, and the {role} gives {count} logits"
            + (f"; class {missing[0]} has no name" if missing else "")
            + f". Set `{role}.config.id2label` to one name for each of the classes 0 to {count - 1}."
        )
    return tuple(by_key[str(index)] for index in range(count))


def comparable(names: Sequence[str], others: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return two lists of names as they are compared: normalized, unless those of one list differ in nothing else."""
    keys = [normalized(name) for name in names], [normalized(name) for name in others]
    if any(len(set(key)) < len(set(given)) for key, given in zip(keys, (names, others), strict=True)):
        return list(names), list(others)
    return keys


def counts_only(names: Sequence[str], other: Sequence[str]) -> bool:
    """Whether names are only the classes' numbers from 0 on, and the other list does not show that it means them so.

    It does not if it has none of them, is numbered from 0 to another end, or counts as many classes from another
    number on: then it cannot be told whether its "1" is the second class or the one of that name.
    """
    if not _numbered(names) or names == other:
        return False
    others = [normalized(name) for name in other]
    if _numbered(other) or not set(names) & set(others):
        return True
    numbers = sorted(int(name) for name in others if name.isascii() and name.isdigit())
    first = numbers[0]
    return first > 0 and len(numbers) == len(other) and numbers == list(range(first, first + len(names)))


def by_number(names: Sequence[str]) -> tuple[int, ...] | None:
    """Return the places of names in the order of the number in each, or None if they lie in that order already.

    Folders "0", "1", "10", "2" lie in the order of a dictionary, and so do "class_1", "class_10", "class_2". A model
    whose classes have no names may have learnt them in either order. Names that differ in more than their number
    have no other order than their own.

    Example:
        >>> by_number(["0", "1", "10", "2"])
        (0, 1, 3, 2)
    """
    found = [re.fullmatch(r"(\D*)([0-9]+)(\D*)", name.strip()) for name in names]
    parts = [match.groups() for match in found if match is not None]
    numbers = [int(number) for _, number, _ in parts]
    if len(parts) < len(names) or len({(a, b) for a, _, b in parts}) > 1 or len(set(numbers)) < len(numbers):
        return None
    order = tuple(sorted(range(len(names)), key=numbers.__getitem__))
    return None if order == tuple(range(len(names))) else order


def relation(names: Sequence[str] | None, data: Sequence[str] | None) -> str:
    """Return how the names of one list lie to those of another that names the same numbers.

    Args:
        names: Names of the classes 0, 1, ...; None if they have none.
        data: Others; the list need not be as long.

    Returns:
        "unnamed" if one of them says nothing; "same", but for spelling; "moved" if a name stands at another number in
        the other list; "other" if names differ, and none is moved.
    """
    if names is None or data is None or is_default(names) or is_default(data):
        return "unnamed"
    if counts_only(names, data) or counts_only(data, names):
        return "unnamed"
    ours, theirs = comparable(names, data)
    pairs = list(zip(ours, theirs, strict=False))
    if all(one == other for one, other in pairs):
        return "same"
    places: dict[str, set[int]] = {}
    for index, key in enumerate(theirs):
        places.setdefault(key, set()).add(index)
    is_moved = any(index not in places.get(key, {index}) for index, key in enumerate(ours))
    return "moved" if is_moved else "other"


def contradictions(id2label: Mapping[int, str] | None, label2id: Mapping[str, int] | None) -> list[str]:
    """Return the names to which a config gives one number in `id2label` and another one in `label2id`, with both."""
    numbers: dict[str, list[int]] = {}
    for number, name in (id2label or {}).items():
        numbers.setdefault(str(name), []).append(int(number))
    return [
        f"{name!r} ({numbers[name][0]} and {other})"
        for name, other in (label2id or {}).items()
        if name in numbers and int(other) not in numbers[name]
    ]


def _numbered(names: Sequence[str]) -> bool:
    return all(name == str(index) for index, name in enumerate(names))
