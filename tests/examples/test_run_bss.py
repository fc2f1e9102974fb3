"""The example of boundary samples as users run it."""

from __future__ import annotations

import pytest
from example_runs import PLAIN, call, imported, rows_of
from transformers import AutoModelForImageClassification

from hf_abkd.cli import comparison

QUICK = [
    "--use_cpu",
    "--disable_tqdm",
    "1",
    "--per_device_train_batch_size",
    "8",
    "--dataloader_pin_memory",
    "0",
    *PLAIN,
]


@pytest.fixture
def run_bss():
    return imported("run_bss")


@pytest.mark.usefixtures("demonstrated_on_few")
def test_the_demonstration_prints_one_table(run_bss, tmp_path):
    """What users see first: three ways on one budget, and what the attacks did."""
    flags = ["--output_dir", tmp_path, "--max_steps", "3", "--seeds", "0", "--logging_steps", 1]
    printed = call("run_bss", *flags, *QUICK)
    assert [row[0] for row in rows_of(printed)] == ["model", "student alone", "KD", "KD with boundary samples"]
    assert "Accuracy of the teacher: " in printed
    for method in run_bss.METHODS:
        AutoModelForImageClassification.from_pretrained(tmp_path / f"{method}-seed0")


def test_kd_is_the_same_stage_without_the_samples(run_bss):
    """Any other difference between the two would be taken for what the samples do."""
    flags = run_bss.SampleArguments(attack_share=0.5)
    (kd,), (bss,) = run_bss.stages_of("kd", flags), run_bss.stages_of("bss", flags)
    ours, theirs = kd.describe(), bss.describe()
    assert ours["terms"][2].pop("weight") == "0.0" and theirs["terms"][2].pop("weight") != "0.0"
    assert ours == theirs
    assert run_bss.stages_of("alone", flags) is None
    with pytest.raises(ValueError, match="rule must be"):
        run_bss.stages_of("bss", run_bss.SampleArguments(attack_rule="none"))


def test_a_run_without_a_teacher_is_refused(workspace):
    """Without one it would train the student alone, and the output would not say so."""
    with pytest.raises(ValueError, match="--teacher_name_or_path is missing; --method alone"):
        call(
            "run_bss",
            *("--student_name_or_path", workspace / "student", "--train_files", workspace / "train.parquet"),
            *("--output_dir", workspace / "out", *QUICK),
        )


def test_figures_that_were_never_logged_are_told_as_such(run_bss):
    """A `nan` in the table looks like a run that diverged."""

    def last_row(**figures):
        log = [{"eval_accuracy": 0.5, "train_runtime": 1.0, "teacher_accuracy": 0.9}]
        log.append({f"boundary_samples/{name}": value for name, value in figures.items()})
        outcomes = [comparison.Outcome(run_bss.METHODS["bss"], 0, 10, log)]
        return comparison.table(outcomes, run_bss.COLUMNS)

    assert last_row(reached=0.0, passes=11.0).endswith("| 50.00 % | 1 s | 0.0 % | not logged | 11.0 |")
    assert last_row(reached=0.575, gap=0.1639, passes=15.0).endswith("| 57.5 % | 0.164 | 15.0 |")
    assert last_row().count("not logged") == 3
