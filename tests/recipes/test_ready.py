"""The recipes that come along: each is right, says what it is for, and has nothing but what was found to be best."""

import pytest

from hf_abkd import Recipe
from hf_abkd.methods import METHODS
from hf_abkd.recipes.ready import purpose_of, ready_recipes
from hf_abkd.recipes.sections import ALONE

RECIPES = ready_recipes()


def test_there_is_one_for_each_method():
    """A method without a recipe is found by readers of the source alone."""
    assert {*METHODS, ALONE} <= set(RECIPES)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_ready_recipe_is_right_and_survives_a_file(name):
    """It is the first that a user tries."""
    recipe = Recipe.from_yaml(RECIPES[name], origin=name)
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert 10 < len(purpose_of(RECIPES[name])) < 90 and f"hf-abkd train {name}" in RECIPES[name]


@pytest.mark.parametrize("name", sorted({*METHODS} - {"route_constrained"}))
def test_settings_are_the_defaults_of_the_method(name):
    """Numbers that stand in two places become two numbers."""
    assert Recipe.from_yaml(RECIPES[name]).section("settings") == {}
