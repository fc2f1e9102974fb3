"""The recipes that come along: each is right, says what it is for, and has nothing but what was found to be best."""

import pytest

from hf_abkd import Recipe
from hf_abkd.methods import METHODS
from hf_abkd.objectives import OBJECTIVES
from hf_abkd.recipes.ready import purpose_of, ready_recipes
from hf_abkd.recipes.sections import ALONE

RECIPES = ready_recipes()
#: Methods that find their layers in models, and the objectives of their terms.
MADE_OF = {
    "hidden_state_distillation": ["hidden_states"],
    "minilm": ["self_attention_relation_distillation"],
    "one_for_all": ["adaptive_target_enhancement"],
    "vitkd": ["masked_token_generation"],
}


def test_there_is_one_for_each_method():
    """A method without a recipe is found by readers of the source alone."""
    # That of feature distillation is told by the objective.
    assert {*METHODS, ALONE} - {"feature_distillation"} <= set(RECIPES)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_ready_recipe_is_right_and_survives_a_file(name):
    """It is the first that a user tries."""
    recipe = Recipe.from_yaml(RECIPES[name], origin=name)
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert 10 < len(purpose_of(RECIPES[name])) < 90 and f"hf-abkd train {name}" in RECIPES[name]


@pytest.mark.parametrize("name", sorted({*METHODS} & set(RECIPES) - {"route_constrained"}))
def test_settings_are_the_defaults_of_the_method(name):
    """Numbers that stand in two places become two numbers."""
    assert Recipe.from_yaml(RECIPES[name]).section("settings") == {}


def test_there_is_one_for_each_objective_that_teaches_by_itself():
    """Whoever looks for a paper finds its objective in a list of recipes, and not of classes alone."""
    # Those of another domain or other classes stand in methods, and one in the first stage of MiniLM's older form.
    by_methods = {"deep_self_attention_distillation", "centered_logits", "domain_classification"}
    written = "\n".join(RECIPES.values())
    named = {name for name in OBJECTIVES if f"objective: {name}\n" in written} | set(METHODS)
    named |= {objective for method, objectives in MADE_OF.items() if method in RECIPES for objective in objectives}
    assert set(OBJECTIVES) - named == {*by_methods, "maximum_mean_discrepancy"}
