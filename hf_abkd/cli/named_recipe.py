"""Recipes as the words of a command line name them: a file or one that comes along, and what is to be otherwise."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hf_abkd.recipes.document import parsed
from hf_abkd.recipes.mistakes import closest
from hf_abkd.recipes.overrides import is_override
from hf_abkd.recipes.ready import ready_recipes
from hf_abkd.recipes.recipe import Recipe


class _Parser(argparse.ArgumentParser):
    """Tells a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        """End the program with a mistake in its words."""
        hint = "; an override is path=value" if message.startswith("unrecognized arguments") else ""
        self.exit(2, f"{self.prog}: {message}{hint} (--help lists what there is)\n")
        raise SystemExit(2)


@dataclass(frozen=True)
class RecipeWords:
    """The words of a command about a recipe.

    Args:
        name: The file, or the name of a ready recipe.
        overrides: What is to be otherwise.
        flags: The flags, by their names.
    """

    name: str
    overrides: Sequence[str]
    flags: dict[str, Any]

    @classmethod
    def read(
        cls, words: Sequence[str], *, prog: str, description: str | None, flags: dict[str, dict[str, Any]] | None = None
    ) -> RecipeWords:
        """Read the words of a command.

        Args:
            words: The words.
            prog: What the command is called.
            description: What it does, in its first line.
            flags: Its flags, and how argparse takes them.

        Raises:
            SystemExit: If a word is neither the recipe nor a flag nor an override.
        """
        parser = _Parser(
            prog=prog,
            usage=f"{prog} RECIPE [path=value ...]{' [flags]' if flags else ''}",
            description=(description or "").split("\n")[0],
            epilog="Words like training.learning_rate=1e-3 or stages.0.terms.0.weight=2 change what the recipe says.",
            allow_abbrev=False,
        )
        parser.add_argument("recipe", help="a YAML or JSON file, or a name that `hf-abkd recipes` lists")
        for flag, settings in (flags or {}).items():
            parser.add_argument(flag, **settings)
        # Taken out before, as they may stand between the flags.
        overrides = [word for word in words if is_override(word)]
        given = vars(parser.parse_args([word for word in words if not is_override(word)]))
        return cls(given.pop("recipe"), overrides, given)


def named_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Return a recipe by its file, or by its name among those that come along.

    Raises:
        FileNotFoundError: If it is neither.
        ValueError: If it is not right.
    """
    ready = ready_recipes()
    if Path(name).is_file() or name not in ready:
        if not Path(name).exists():
            raise FileNotFoundError(
                f"there is no file {name}, nor a recipe of that name among those that come along: "
                f"{closest(name, list(ready))}"
            )
        return Recipe.load(name, overrides=overrides)
    return Recipe.of_document(parsed(ready[name], origin=f"the recipe {name}"), overrides=overrides)
