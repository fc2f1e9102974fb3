"""Methods compared on one workload, and the table of it."""

import math

import pytest
import tiny
import torch

from hf_abkd.cli import comparison, run_flags, runs
from hf_abkd.cli.comparison import Outcome
from hf_abkd.cli.workload import Workload


def outcome(model, *accuracies, parameters=1234, seed=0):
    log = [{"teacher_accuracy": 0.75, "step": 0}, *({"eval_accuracy": accuracy} for accuracy in accuracies)]
    return Outcome(model, seed, parameters, log)


def test_each_method_has_each_seed_and_a_folder_of_its_own(tmp_path):
    """Two runs in one folder would overwrite each other, and a method with a seed less is not compared."""
    args = tiny.arguments(tmp_path, seed=5)
    compared = run_flags.RunArguments(seeds=[0, 1])
    jobs = comparison.jobs(["kd", "ab"], args, compared)
    assert [(method, one.seed) for method, one in jobs] == [("kd", 0), ("ab", 0), ("kd", 1), ("ab", 1)]
    assert [one.output_dir for _, one in jobs] == [
        f"{tmp_path}/{name}" for name in ("kd-seed0", "ab-seed0", "kd-seed1", "ab-seed1")
    ]
    one_method = comparison.jobs(["ab"], args, compared)
    assert [one.output_dir for _, one in one_method] == [f"{tmp_path}/ab-seed0", f"{tmp_path}/ab-seed1"]
    several = comparison.jobs(["kd", "ab"], args, run_flags.RunArguments())
    assert [one.output_dir for _, one in several] == [f"{tmp_path}/kd-seed5", f"{tmp_path}/ab-seed5"]
    assert comparison.jobs(["ab"], args, run_flags.RunArguments()) == [("ab", args)]
    assert args.seed == 5 and args.output_dir == str(tmp_path)


def test_the_last_accuracy_counts_and_what_was_not_logged_is_none():
    """The first evaluation is that of a student that knows nothing."""
    assert outcome("KD", 0.1, 0.9).accuracy == 0.9
    assert outcome("KD", 0.1).teacher_accuracy == 0.75
    assert (Outcome("KD", 0, 1, []).accuracy, Outcome("KD", 0, 1, []).teacher_accuracy) == (None, None)
    assert outcome("KD", 0.1, 0.9).logged("eval_accuracy") == [0.1, 0.9]


def test_percent_is_mean_and_sample_deviation():
    """A deviation divided by n instead of n - 1 makes three seeds look surer than they are."""
    assert comparison.percent([0.5]) == "50.00 %"
    deviation = 100 * math.sqrt((0.1**2 + 0.0 + 0.1**2) / 2)
    assert comparison.percent([0.8, 0.9, 1.0]) == f"90.00 % ± {deviation:.2f}"
    assert comparison.percent([0.8, None]) == "-"


def test_the_table_has_a_row_for_each_method_and_further_columns():
    """Seeds are averaged, not listed, and rows keep the order in which methods ran."""
    outcomes = [outcome("KD", 0.5), outcome("AB", 0.75), outcome("KD", 0.7), outcome("AB", 0.85)]
    printed = comparison.table(outcomes, {"runs": lambda same: str(len(same))}, [["teacher", "9", "75.00 %", ""]])
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines()]
    assert header == ["model", "parameters", "accuracy", "runs"]
    assert rows == [
        ["teacher", "9", "75.00 %", ""],
        ["KD", "1,234", "60.00 % ± 14.14", "2"],
        ["AB", "1,234", "80.00 % ± 7.07", "2"],
    ]


def test_method_below_the_student_alone_is_told_below_the_table():
    """The row that is a little smaller than the one above it is read as a result of the method."""
    outcomes = [outcome("student alone", 0.9), outcome("KD", 0.8), outcome("AB", 0.95)]
    outcomes.append(outcome("student alone", 0.8, seed=1))
    [remark] = comparison.remarks(outcomes, "student alone")
    assert remark.startswith("BELOW THE BASELINE: KD came to 80.00 %, and student alone to 85.00 %")
    assert comparison.report(outcomes).splitlines()[-2] == remark
    assert comparison.remarks(outcomes[1:3], "student alone") == []
    assert comparison.remarks([Outcome("student alone", 0, 1, []), Outcome("KD", 0, 1, [])], "student alone") == []


def test_students_of_one_seed_start_alike_and_are_saved_with_a_card(tmp_path):
    """A method that started from better weights would win by them."""
    data = tiny.images(8)
    work = Workload(None, lambda: tiny.resnet(4, seed=torch.initial_seed()), None, data, data, "random images")
    args = tiny.arguments(tmp_path / "run", max_steps=1, eval_strategy="steps", eval_steps=1)
    first, again = (comparison.seeded_trainer(work, args, run_flags.RunArguments(), None) for _ in range(2))
    assert tiny.differing(tiny.tensors(first.model), tiny.tensors(again.model)) == []
    result = comparison.finished("student alone", first, work, more=3)
    assert result.accuracy is not None and result.measured == {"more": 3}
    assert result.parameters == first.model.num_parameters()
    assert {"model.safetensors", "README.md"} <= {file.name for file in (tmp_path / "run").iterdir()}


@pytest.mark.parametrize("seed", [0, 7])
def test_a_run_of_a_comparison_takes_further_changes(tmp_path, seed):
    """A run that is shorter than the others says so in its arguments."""
    changed = comparison.with_seed(tiny.arguments(tmp_path), seed, "kd", max_steps=9)
    assert (changed.seed, changed.max_steps, changed.output_dir) == (seed, 9, f"{tmp_path}/kd-seed{seed}")


def test_what_one_method_cannot_do_is_told_before_another_is_trained(tmp_path):
    """KD was refused after the students alone had been trained, an hour later."""
    data = tiny.images(8)
    work = Workload(tiny.resnet(4, classes=7), lambda: tiny.resnet(4), None, data, data, "random images")
    run, args = run_flags.RunArguments(), tiny.arguments(tmp_path / "runs")

    def make(method, args):
        return comparison.seeded_trainer(work, args, run, runs.stages_of(method, run))

    with pytest.raises(ValueError, match="two label spaces"):
        comparison.check(comparison.jobs(["alone", "kd"], args, run), make)
    comparison.check(comparison.jobs(["alone", "ab"], args, run), make)
    assert not (tmp_path / "runs").exists()
