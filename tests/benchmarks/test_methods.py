"""The comparison of all objectives: none is forgotten, and the table says what each costs."""

import sys
from pathlib import Path

from hf_abkd.objectives import OBJECTIVES

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import methods


def test_every_objective_is_compared_or_left_out_for_a_reason():
    """A table of all methods that lacks the one a reader looks for says by its silence that it is not worth a row."""
    assert {*methods.WAYS, *methods.LEFT_OUT, "cross_entropy"} >= set(OBJECTIVES)
    for name, make in methods.WAYS.items():
        stages = make()
        assert stages and all(stage.terms for stage in stages), name


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
