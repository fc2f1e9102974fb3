"""`hf-abkd validate`: whether a recipe is right, before anything is loaded or downloaded."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

from hf_abkd.cli.named_recipe import RecipeWords, named_recipe
from hf_abkd.cli.output import write_line
from hf_abkd.cli.recipe_run import check_complete, training_arguments
from hf_abkd.recipes.recipe import Recipe


def run(words: Sequence[str]) -> int:
    """Check a recipe and what overrides change in it; return 0 if it is right."""
    given = RecipeWords.read(words, prog="hf-abkd validate", description=__doc__)
    recipe = named_recipe(given.name, given.overrides)
    _check_arguments(recipe)
    what = recipe.method or "stages"
    stages = () if recipe.reads else recipe.stages() or ()
    names = ", then ".join(stage.name or "a stage" for stage in stages)
    write_line(f"{given.name} is right: {what}{f' ({names})' if names else ''}")
    try:
        check_complete(recipe)
    except ValueError as error:
        # Right for a recipe that is to serve with several models.
        write_line(f"To train, {error}")
    return 0


def _check_arguments(recipe: Recipe) -> None:
    """Make the training arguments, which refuse those that do not go together."""
    with tempfile.TemporaryDirectory() as scratch:
        content = recipe.content
        content["training"] = {**recipe.section("training"), "output_dir": scratch, "push_to_hub": False}
        training_arguments(Recipe(content))
