"""Documents: YAML or JSON as plain data, with the place of every value, and nothing in it executed.

A recipe may come from a stranger. Tags, which would make objects of Python, are refused by their names; keys that stand
twice, of which the last would win, are refused; aliases may not multiply a file into more than a recipe ever holds.

Numbers, truth values and nothing are written as in JSON and YAML 1.2: `1e-3` is a number and `no` is a word, which
YAML 1.1, and with it the loaders of PyYAML, have the other way round.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hf_abkd.schema import read_text

#: Where a value lies in a document: the keys and indices that lead to it.
Place = tuple[str | int, ...]

_MOST_BYTES = 1_000_000
_MOST_VALUES = 20_000
_DEEPEST = 40
_TAG = "tag:yaml.org,2002:"
_SHORT_TAGS = {f"{_TAG}{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")}


@dataclass(frozen=True)
class Document:
    """Plain data, and what to call the place of each value.

    Args:
        data: Mappings with text as keys, lists, text, numbers, truth values and None.
        places: Where a value stands, in words, as "recipe.yaml, line 3".
        origin: What the whole is called.
    """

    data: Any
    places: Mapping[Place, str]
    origin: str

    def where(self, place: Place) -> str:
        """Return where a value stands, or what is around it if it is not there itself."""
        while place and place not in self.places:
            place = place[:-1]
        return self.places.get(place, self.origin)


def read_document(path: Path) -> Document:
    """Read a file.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is too large, no UTF-8, or no plain data; see `parsed`.
    """
    if path.is_file() and path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{path} is larger than any recipe: {path.stat().st_size:,} bytes")
    return parsed(read_text(path, remedy="Save it as text in UTF-8"), origin=str(path))


def parsed(text: str, *, origin: str) -> Document:
    """Return the plain data that a text holds; JSON is YAML, too.

    Args:
        text: The text.
        origin: What to call it.

    Raises:
        ValueError: If it is no YAML, has tags, a key twice or one that is no text, or is too large or too deep.

    Example:
        >>> document = parsed("a: [1e-3, no]", origin="it")
        >>> document.data, document.where(("a", 1))
        ({'a': [0.001, 'no']}, 'it, line 1')
    """
    try:
        root = yaml.compose(_without_tabs(text), Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{origin} is no YAML: {error}") from error
    places: dict[Place, str] = {}
    data = None if root is None else _Reader(origin, places).value(root, (), f"{origin}, line 1")
    return Document(data, places, origin)


def _without_tabs(text: str) -> str:
    """Return JSON without the tabs that may indent it, which YAML does not take; in texts of JSON there are none."""
    return text.replace("\t", " ") if text.lstrip()[:1] == "{" else text


#: What words stand for by themselves: the tag, all of the words, and their first letters.
IMPLICIT: Sequence[tuple[str, re.Pattern[str], Sequence[str]]] = [
    (f"{_TAG}{name}", re.compile(f"^(?:{pattern})$"), first)
    for name, pattern, first in (
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("int", r"[-+]?[0-9]+", list("-+0123456789")),
        ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
        ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
    )
]


class _Loader(yaml.SafeLoader):
    """Takes words for what YAML 1.2 takes them for."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


for _name, _pattern, _first in IMPLICIT:
    _Loader.add_implicit_resolver(_name, _pattern, _first)


class _Reader:
    """Makes plain data of the nodes of a document, and notes where each stands.

    Args:
        origin: What the document is called.
        places: Takes the places.
    """

    def __init__(self, origin: str, places: dict[Place, str]) -> None:
        self._origin, self._places, self._count = origin, places, 0

    def value(self, node: yaml.Node, place: Place, where: str) -> Any:
        """Return what a node stands for."""
        self._places[place] = where
        self._count += 1
        if self._count > _MOST_VALUES or len(place) > _DEEPEST:
            raise ValueError(
                f"{where}: with its aliases written out, {self._origin} holds more than {_MOST_VALUES:,} values, or "
                f"more than {_DEEPEST} inside of each other, which no recipe does"
            )
        if node.tag not in _SHORT_TAGS:
            raise ValueError(
                f"{self._line(node)}: the tag {_shown(node.tag)} is not taken: a recipe is plain data, and nothing in "
                "it is made into an object of Python"
            )
        if isinstance(node, yaml.MappingNode):
            return dict(self._entries(node, place))
        if isinstance(node, yaml.SequenceNode):
            return [self.value(one, (*place, index), self._line(one)) for index, one in enumerate(node.value)]
        return _scalar(node.tag.removeprefix(_TAG), node.value, where)

    def _entries(self, node: yaml.MappingNode, place: Place) -> Iterator[tuple[str, Any]]:
        lines: dict[str, str] = {}
        for key_node, node_of_value in node.value:
            where = self._line(key_node)
            key = _scalar(key_node.tag.removeprefix(_TAG), key_node.value, where)
            if not isinstance(key, str):
                raise ValueError(f"{where}: a key must be text, got {key!r}; put it in quotes if it is a name")
            if key in lines:
                raise ValueError(f"{where}: {key!r} stands there twice, first in {lines[key].rpartition(', ')[2]}")
            if key == "<<":
                raise ValueError(f"{where}: mappings are not merged by '<<'; write the keys out")
            lines[key] = where
            yield key, self.value(node_of_value, (*place, key), where)

    def _line(self, node: yaml.Node) -> str:
        return f"{self._origin}, line {node.start_mark.line + 1}"


def _scalar(kind: str, text: Any, where: str) -> Any:
    """Return what a word stands for."""
    if not isinstance(text, str):
        return text
    try:
        if kind == "null":
            return None
        if kind == "bool":
            return {"true": True, "false": False}[text.lower()]
        if kind == "int":
            return int(text)
        if kind == "float":
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        # JSON writes what lies beyond 16 bits as two halves.
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except (KeyError, ValueError) as error:
        raise ValueError(f"{where}: {text[:60]!r} is not possible as {kind}") from error


def _shown(tag: str) -> str:
    return tag.replace(_TAG, "!!")
