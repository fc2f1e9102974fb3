"""Ready recipes: one for each method, with the settings that were found to be best, which come with the package."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from hf_abkd.recipes.document import parsed


@cache
def ready_recipes() -> Mapping[str, str]:
    """Return the texts of the ready recipes, by their names."""
    folder = files("hf_abkd.recipes") / "ready"
    found = {entry.name.removesuffix(".yaml"): entry for entry in folder.iterdir() if entry.name.endswith(".yaml")}
    return {name: found[name].read_text(encoding="utf-8") for name in sorted(found)}


def purpose_of(text: str) -> str:
    """Return what a ready recipe is for, in a line."""
    return str(parsed(text, origin="a ready recipe").data["description"])
