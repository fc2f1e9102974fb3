"""The example of boundary samples as users run it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForImageClassification

from hf_abkd.data.digits import digits

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
QUICK = ["--use_cpu", "--disable_tqdm", "1", "--per_device_train_batch_size", "8", "--dataloader_pin_memory", "0"]


@pytest.fixture
def run_bss(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("run_bss")


def call(run_bss, monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["run_bss.py", *map(str, flags)])
    run_bss.main()


def test_the_demonstration_prints_one_table(run_bss, monkeypatch, tmp_path, capsys):
    """What users see first: three ways on one budget, and what the attacks did."""
    few = digits()
    few = type(few)(few.train.select(range(64)), few.validation.select(range(32)), few.labels, few.name)
    monkeypatch.setattr(run_bss.run_ab, "digits", lambda: few)
    call(
        run_bss, monkeypatch, "--output_dir", tmp_path, "--max_steps", "3", "--seeds", "0", "--logging_steps", 1, *QUICK
    )
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows] == [
        "| model",
        "| student alone",
        "| KD",
        "| KD with boundary samples",
    ]
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


def test_a_run_without_a_teacher_is_refused(run_bss, monkeypatch, tmp_path):
    """Without one it would train the student alone, and the output would not say so."""
    part = digits().train.select(range(16))
    part.to_parquet(str(tmp_path / "train.parquet"))
    cifar = importlib.import_module("cifar_models")
    labels = {"id2label": {i: str(i) for i in range(10)}}
    cifar.CifarResNetConfig(depth=8, widths=(4, 6, 8), **labels).save_pretrained(tmp_path / "student")
    cifar.cifar_processor().save_pretrained(tmp_path / "student")
    with pytest.raises(ValueError, match="--teacher_name_or_path is missing: samples are moved"):
        call(
            run_bss,
            monkeypatch,
            *("--student_name_or_path", tmp_path / "student", "--train_files", tmp_path / "train.parquet"),
            *("--output_dir", tmp_path / "out", *QUICK),
        )


def test_figures_that_were_never_logged_are_told_as_such(run_bss):
    """A `nan` in the table looks like a run that diverged."""
    result = {"model": run_bss.METHODS["bss"], "parameters": 10, "accuracy": 0.5, "seconds": 1.0, "teacher": 0.9}
    nothing = {"reached": 0.0, "gap": float("nan"), "passes": 11.0}
    assert run_bss.table([{**result, **nothing}]).endswith("| 50.00 % | 1 s | 0.0 % | not logged | 11.0 |")
    assert run_bss.table([{**result, **dict.fromkeys(nothing, float("nan"))}]).count("not logged") == 3
