"""The comparison of all objectives: none is forgotten, and the table says what each costs."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hf_abkd import MeanTeacher
from hf_abkd.cli.named_recipe import named_recipe
from hf_abkd.recipes.ready import ready_recipes

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import methods


def test_every_recipe_is_compared_or_left_out_for_a_reason():
    """A table of all methods that lacks the one a reader looks for says by its silence that it is not worth a row."""
    assert not set(methods.LEFT_OUT) - set(ready_recipes())
    assert {*methods.WAYS, *methods.LEFT_OUT} == set(ready_recipes())


@pytest.mark.parametrize(
    ("way", "kind"),
    [
        ("activation_boundary", "cache"),
        ("knowledge_distillation", "cache"),
        ("stronger_teacher", "cache"),
        ("attention_transfer", "teacher"),
        ("boundary_supporting_samples", "teacher"),
        ("one_for_all", "teacher"),
        ("alone", "none"),
        ("teacher_free_regularization", "none"),
        ("mean_teacher", "mean"),
    ],
)
def test_a_way_has_the_teacher_that_it_needs(way, kind):
    """A cache in the place of a teacher makes a step cheaper, and one that lacks a layer would stop the run."""
    cifar = SimpleNamespace(teacher=lambda: "teacher", cache=lambda rows, views: "cache")
    found = methods.teacher_of(way, named_recipe(way), cifar, 1000, 0)
    assert found == {"none": None, "mean": MeanTeacher()}.get(kind, kind)


def test_the_table_is_sorted_and_counts_from_the_student_alone():
    """What a method costs is what it adds to training without one."""
    runs = [("alone", 0.5, 1.0, 100.0), ("knowledge_distillation", 0.6, 1.1, 110.0), ("hint", 0.55, 2.0, 150.0)]
    results = [
        {
            "way": way,
            "rows": 1000,
            "seed": seed,
            "accuracy": accuracy + 0.01 * seed,
            "seconds_per_step": step,
            "megabytes": memory,
        }
        for way, accuracy, step, memory in runs
        for seed in (0, 1)
    ]
    lines = methods.table(results, 1000).splitlines()[2:]
    assert [line.split(" | ")[0] for line in lines] == ["| knowledge_distillation", "| hint", "| alone"]
    assert "-5.0 points" in lines[1] and "| 2.00 | +50 MB |" in lines[1]
