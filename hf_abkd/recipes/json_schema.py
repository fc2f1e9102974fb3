"""The JSON Schema of recipes, by which editors complete keys and underline mistakes."""

from __future__ import annotations

import json
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from hf_abkd.recipes.sections import recipe_value
from hf_abkd.recipes.training_part import SAID_BY_THE_USER


def json_schema() -> dict[str, Any]:
    """Return the schema of what a file may hold, in the dialect 2020-12 of JSON Schema."""
    schema: dict[str, Any] = TypeAdapter(recipe_value()).json_schema()
    training = schema["$defs"]["TrainingArguments"]["properties"]
    for name in SAID_BY_THE_USER & set(training):
        # The words of a command line can say these, and a file cannot.
        del training[name]
    for definition in schema["$defs"].values():
        for written in definition.get("properties", {}).values():
            # Made of the names of the keys, they say nothing.
            written.pop("title", None)
    _in_one_order(schema)
    head = {"$schema": GenerateJsonSchema.schema_dialect, "title": "Recipe of hf_abkd"}
    return {**head, **schema}


def _in_one_order(written: Any) -> None:
    """Put the alternatives of a value in one order.

    Python keeps the first of two unions that are equal but for their order, so which one a process writes is decided
    by what it has imported.
    """
    if isinstance(written, list):
        for each in written:
            _in_one_order(each)
    elif isinstance(written, dict):
        for each in written.values():
            _in_one_order(each)
        for name in {"anyOf", "oneOf"} & set(written):
            written[name].sort(key=_null_last)


def _null_last(alternative: dict[str, Any]) -> tuple[bool, str]:
    return alternative == {"type": "null"}, json.dumps(alternative, sort_keys=True)


def to_json(schema: dict[str, Any]) -> str:
    """Return a schema as the text of its file."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
