"""The recipe of a run, kept beside its student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from hf_abkd.recipes.recipe import RECIPE_NAME, Recipe
from hf_abkd.training.trainer import DistillationTrainer


def keep_recipe(recipe: Recipe, trainer: DistillationTrainer) -> None:
    """Have the recipe of a run kept beside its student, with its defaults written out, and shown in its card."""
    resolved = recipe.resolved()
    trainer.recipe = resolved.to_yaml()
    trainer.add_callback(_KeepRecipe(resolved))


class _KeepRecipe(TrainerCallback):
    """Writes the recipe of a run into its output folder, once the run has taken the folder.

    Args:
        recipe: The recipe.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write it; one process does."""
        if state.is_world_process_zero:
            folder = Path(args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            self._recipe.save(folder / RECIPE_NAME)
