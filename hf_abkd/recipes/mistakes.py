"""Mistakes in a recipe, as its author is told of them: file, line, what stands there, and what would be right."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from hf_abkd.recipes.document import Document, Place
from hf_abkd.wording import counted, listed

# A command shows so many lines as they are.
_MOST = 3
_LONGEST = 60
_TAG = re.compile(r"'<(?:\w+=)?([^>,]+)(, pairs)?>'")
# What belongs where pydantic found something else.
_WANTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping",
    "model": "a mapping",
    "none": "left out",
}
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def told(error: ValidationError, document: Document) -> str:
    """Return what is wrong with a recipe, a line for each mistake."""
    problems = list(dict.fromkeys(line for part in error.errors(include_url=False) for line in _lines(part, document)))
    more = f" (and {counted(len(problems) - _MOST, 'more mistake')})" if len(problems) > _MOST else ""
    return "\n".join(problems[:_MOST]) + more


def closest(name: object, known: list[str]) -> str:
    """Return the names that are close to one, as the end of a sentence; of few names all."""
    near = difflib.get_close_matches(str(name), known, 3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"there are {listed(known, 12)}" if known else "there is none"


def _lines(error: Mapping[str, Any], document: Document) -> Iterator[str]:
    place = _place(error["loc"])
    kind, context, given = error["type"], error.get("ctx", {}), error["input"]
    if kind == "unknown_keys":
        for key in context["keys"]:
            where = document.where((*place, key))
            yield f"{where}: {_path(place)}there is no key {key!r}; {_advice(key, place, context)}"
    elif kind == "not_possible":
        place = _named_first(context["said"], place, document.data)
        yield f"{document.where(place)}: {_path(place)}{context['said']}"
    elif kind == "missing" and place == ("stages",):
        yield f"{document.origin}: it has neither a method nor stages; give it one of them"
    elif kind == "missing":
        yield f"{document.where(place[:-1])}: {_path(place)}it is missing"
    elif kind == "union_tag_invalid":
        yield f"{document.where(place)}: {_path(place)}{_choice(given, context)}"
    else:
        yield f"{document.where(place)}: {_path(place)}{_wanted(kind, context, error['msg'])}, got {_shown(given)}"


def _advice(key: str, place: Place, context: Mapping[str, Any]) -> str:
    """Return what to do about a key that is not there."""
    if key == "trust_remote_code":
        return "code of others runs only if you say so on the command line: --trust_remote_code"
    if key in ("token", "hub_token", "cache_dir"):
        return f"it is yours, and not the recipe's: give it on the command line, as --{key}"
    if not place and {key, *context["known"]} >= {"method", "stages"}:
        return "a recipe has a method, with its settings, or stages, and not both"
    return closest(key, context["known"])


def _choice(given: Any, context: Mapping[str, Any]) -> str:
    """Return what is wrong with a value that is none of some kinds."""
    known = list(dict.fromkeys(name for name, _ in _TAG.findall(context["expected_tags"])))
    key = re.search(r"<(\w+)=", context["expected_tags"])
    if key is None:
        return f"it should be {' or '.join(known)}, got {_shown(given)}"
    if not isinstance(given, dict):
        return f"it should be a mapping with the key {key[1]}, got {_shown(given)}"
    if key[1] not in given:
        # Of what a file holds, a method; the stages are said by a key of their own.
        return f"it is missing the key {key[1]}, which says what it is: {listed(known, 8)}"
    name = given[key[1]]
    if "pairs" in given and any(name == known_name for known_name in known):
        return f"{name} does not compare pairs of layers: leave out pairs, and name layers by student and teacher"
    return f"there is no {key[1]} {_shown(name)}; {closest(name, [one for one in known if one != 'None'])}"


def _wanted(kind: str, context: Mapping[str, Any], said: str) -> str:
    """Return what should stand at a place."""
    bounds = [f"{word} {context[name]:g}" for name, word in _BOUNDS.items() if name in context]
    if bounds:
        return f"it should be {' and '.join(bounds)}"
    if kind == "literal_error":
        return f"it should be {context['expected']}"
    wanted = _WANTED.get(kind.split("_")[0])
    if wanted is None or kind.endswith(("_short", "_long")):
        return f"it {said[said.find('should') :].partition(' after')[0]}" if "should" in said else said
    return f"it should be {wanted}"


def _place(location: tuple[str | int, ...]) -> Place:
    """Return the place in the data that a location of pydantic means, without the tags of its unions."""
    parts: list[str | int] = []
    for part in location:
        if isinstance(part, str) and part.startswith("<"):
            continue
        parts.append(part)
    return tuple(parts)


def _named_first(said: str, place: Sequence[Any], data: Any) -> Place:
    """Return the place of the setting that a message begins with, if it is given there."""
    found = data
    for part in place:
        found = found[part] if isinstance(found, (dict, list)) else None
    if not isinstance(found, dict):
        return tuple(place)
    name = next((name for name in re.findall(r"(?:^|: )(\w+)", said) if name in found), None)
    return tuple(place) if name is None else (*place, name)


def _path(place: Place) -> str:
    return f"{'.'.join(map(str, place))}: " if place else ""


def _shown(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
