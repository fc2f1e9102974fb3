"""`hf-abkd recipes`: the recipes that come along, the text of one of them, or the schema that editors read."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from hf_abkd.cli.output import write_line
from hf_abkd.recipes.mistakes import closest
from hf_abkd.recipes.ready import purpose_of, ready_recipes


def run(words: Sequence[str]) -> int:
    """Print what is asked for.

    Raises:
        ValueError: If there is no such recipe.
    """
    parser = argparse.ArgumentParser(prog="hf-abkd recipes", description=(__doc__ or "").strip(), allow_abbrev=False)
    parser.add_argument("name", nargs="?", help="print this one, to change it: hf-abkd recipes NAME > mine.yaml")
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of recipes")
    given = parser.parse_args(list(words))
    ready = ready_recipes()
    if given.schema:
        # It needs every objective and training argument; the list of recipes is there without torch.
        from hf_abkd.recipes.json_schema import json_schema, to_json

        write_line(to_json(json_schema()).rstrip("\n"))
    elif given.name is None:
        width = max(map(len, ready))
        for name, text in ready.items():
            write_line(f"{name:<{width}}  {purpose_of(text)}")
    elif given.name in ready:
        write_line(ready[given.name].rstrip("\n"))
    else:
        raise ValueError(f"there is no ready recipe {given.name}; {closest(given.name, list(ready))}")
    return 0
