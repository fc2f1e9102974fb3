"""What a recipe of a stranger's cannot have done, and what its user can say for it."""

import pytest

from hf_abkd import DistillationArguments, Recipe
from hf_abkd.recipes.training_part import SAID_BY_THE_USER, training_part


def saved(folder, text):
    (folder / "r.yaml").write_text(text)
    return folder / "r.yaml"


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_function_of_python_is_named_by_the_user_alone(tmp_path, role):
    """`model: os:abort` in a file would be run by whoever tries the file."""
    path = saved(tmp_path, f"method: alone\n{role}: {{model: 'os:abort'}}")
    with pytest.raises(ValueError, match=rf"line 2: {role}.model names a function of Python.*{role}.model=os:abort"):
        Recipe.load(path)
    path = saved(tmp_path, f"method: alone\n{role}: {{model: owner/name}}")
    recipe = Recipe.load(path, overrides=[f"{role}.model=mine.models:make"])
    assert recipe.section(role) == {"model": "mine.models:make"}


@pytest.mark.parametrize("name", sorted(SAID_BY_THE_USER))
def test_what_deletes_or_uploads_is_said_by_the_user_alone(tmp_path, name):
    """A file must not delete the checkpoints of another run, nor send a student to a repository of its author's."""
    assert name in DistillationArguments.__dataclass_fields__
    path = saved(tmp_path, f"method: alone\ntraining:\n  {name}: true")
    with pytest.raises(ValueError, match=f"line 3: training.{name} is not taken from a file"):
        Recipe.load(path)


def test_said_by_the_user_it_is_taken_and_not_kept(tmp_path):
    """The file of a run is passed on, and would say it for the next one."""
    path = saved(tmp_path, "method: alone\ntraining: {seed: 1}")
    recipe = Recipe.load(path, overrides=["training.push_to_hub=true"])
    assert recipe.section("training") == {"seed": 1, "push_to_hub": True}
    recipe.save(path)
    assert "# Said by its user, and not kept: training.push_to_hub" in path.read_text()
    assert Recipe.load(path).section("training") == {"seed": 1}


@pytest.mark.parametrize(
    "place", ["", "teacher: {model: a, trust_remote_code: true}", "data: {trust_remote_code: true}"]
)
def test_code_of_others_is_allowed_by_a_flag_alone(place):
    """What runs on a machine is decided by who sits at it."""
    with pytest.raises(ValueError, match="code of others runs only if you say so on the command line: --trust_remote"):
        Recipe.from_yaml("method: alone\n" + (place or "trust_remote_code: true"))


def test_whatever_uploads_is_among_what_the_user_says():
    """A training argument that transformers adds must not be taken from files before somebody has looked at it."""
    taken = set(training_part().model_fields) - SAID_BY_THE_USER
    assert not [name for name in taken if name.startswith(("hub_", "push_", "trackio_")) or "token" in name.split("_")]
