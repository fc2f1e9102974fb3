"""`hf-abkd train`: train a student by a recipe; by flags instead, which `hf-abkd train --method ab --help` lists.

hf-abkd train RECIPE [path=value ...] [--trust_remote_code] [--token T] [--cache_dir FOLDER]
hf-abkd train --method ab --teacher_name_or_path T --student_name_or_path S --train_dir photos --output_dir out
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from hf_abkd.cli import comparison
from hf_abkd.cli.method_run import run_methods
from hf_abkd.cli.named_recipe import RecipeWords, named_recipe
from hf_abkd.cli.output import write_line
from hf_abkd.cli.recipe_access import AccessArguments, access_flags
from hf_abkd.cli.recipe_run import train_recipe
from hf_abkd.reports.evaluation import stored_evaluation
from hf_abkd.reports.evaluation_text import run_text


def run(words: Sequence[str]) -> int:
    """Train, by a recipe if the first word is none of a flag; return the exit status."""
    if not words:
        raise ValueError(
            "say by what to train: a recipe (`hf-abkd recipes` lists some), or --method with the flags of a run"
        )
    first = words[0].partition("=")[0]
    if first.startswith("--") and first not in access_flags() and list(words) != ["--help"]:
        return run_methods(words, prog="hf-abkd train", description=__doc__)
    given = RecipeWords.read(words, prog="hf-abkd train", description=__doc__, flags=access_flags())
    recipe = named_recipe(given.name, given.overrides)
    outcome = train_recipe(recipe, AccessArguments(**given.flags))
    if os.environ.get("RANK", "0") == "0":
        folder = recipe.section("training")["output_dir"]
        if (measured := stored_evaluation(Path(folder))) is not None:
            write_line(run_text(measured))
        accuracy = "" if outcome.accuracy is None else f", accuracy {comparison.percent([outcome.accuracy])}"
        write_line(f"The student is in {folder}, with its model card and its recipe{accuracy}.")
    return 0
