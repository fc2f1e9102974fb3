"""The recipe of a run as its model card shows it: without what tells of the machine of the one who ran it."""

from __future__ import annotations

from typing import Any

import yaml

from hf_abkd.wording import public_name


def public_recipe(text: str) -> str:
    """Return a recipe in which every path is its last part.

    Args:
        text: The recipe, in YAML.

    Example:
        >>> print(public_recipe("student: {model: /home/somebody/student}"), end="")
        student:
          model: student
    """
    public: str = yaml.safe_dump(_public(yaml.safe_load(text)), sort_keys=False, allow_unicode=True)
    return public


def _public(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _public(one) for key, one in value.items()}
    if isinstance(value, list):
        return list(map(_public, value))
    return public_name(value) if isinstance(value, str) else value
