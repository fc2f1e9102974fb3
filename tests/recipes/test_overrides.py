"""Overrides: what words of a command line change in a recipe, and how they are told from other words."""

import pytest

from hf_abkd import Recipe
from hf_abkd.recipes.document import parsed
from hf_abkd.recipes.overrides import is_override, overridden

TEXT = "stages:\n- terms:\n  - objective: activation_boundary\n    pairs: auto\n  epochs: 1\n"


def changed(*words, text=TEXT):
    return overridden(parsed(text, origin="r.yaml"), words)


def test_values_are_put_where_the_path_leads():
    """One recipe serves for all the numbers that one would like to try."""
    document = changed("stages.0.terms.0.margin=2", "stages.0.epochs=null", "training.learning_rate=1e-3")
    [stage] = document.data["stages"]
    assert stage == {"terms": [{"objective": "activation_boundary", "pairs": "auto", "margin": 2}], "epochs": None}
    assert document.data["training"] == {"learning_rate": 0.001}


def test_entry_at_the_end_of_a_list_is_added():
    """A second term, for example."""
    document = changed("stages.0.terms.1.objective=cross_entropy")
    assert document.data["stages"][0]["terms"][1] == {"objective": "cross_entropy"}
    assert changed("a={b: [1, x]}", text="").data == {"a": {"b": [1, "x"]}}


def test_document_itself_stays_as_it_was():
    """It is read once for several runs."""
    document = parsed(TEXT, origin="r.yaml")
    overridden(document, ["stages.0.epochs=5"])
    assert document.data["stages"][0]["epochs"] == 1


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("stages.0.terms.3.margin=2", "stages.0.terms is a list, whose entries are 0, and 1 adds one; got '3'"),
        ("stages.first.epochs=2", "got 'first'"),
        ("stages.0.epochs.x=2", "stages.0.epochs is 1, which has no x"),
        ("stages.0.epochs=[", "the override 'stages.0.epochs=.' is no YAML"),
        ("a=!!python/name:os.abort", "the tag !!python/name:os.abort is not taken"),
        ("--epochs=2", "is no override"),
    ],
)
def test_path_that_leads_nowhere_is_refused(word, message):
    """An override that changes nothing is a run with the wrong numbers."""
    with pytest.raises(ValueError, match=message):
        changed(word)


def test_mistake_of_an_override_is_told_of_the_override_and_not_of_a_line(tmp_path):
    """The file is right; looking for the mistake in it costs time."""
    path = tmp_path / "r.yaml"
    path.write_text(TEXT)
    for word, said in (
        ("stages.0.terms.0.margn=2", "did you mean margin?"),
        ("stages.0.epochs=-1", "must be positive"),
    ):
        with pytest.raises(ValueError, match=f"the override '{word}'.*{said}"):
            Recipe.load(path, overrides=[word])


def test_words_are_told_apart():
    """A path of a file may hold a '=', and a flag begins with dashes."""
    assert is_override("training.seed=1") and is_override("a=") and is_override("a=b=c")
    assert not any(map(is_override, ["recipe.yaml", "--seed=1", "runs/x=1/recipe.yaml", "a"]))
