"""The example of joint adaptation as users run it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForImageClassification

from hf_abkd.data.digits import digits

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
QUICK = ["--use_cpu", "--disable_tqdm", "1", "--per_device_train_batch_size", "16", "--dataloader_pin_memory", "0"]


@pytest.fixture
def run_uda(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("run_uda")


def few(count=64):
    every = digits()
    return type(every)(every.train.select(range(count)), every.validation.select(range(32)), every.labels, every.name)


def call(run_uda, monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["run_uda.py", *map(str, flags)])
    run_uda.main()


MODELS = ["teacher, source only", "student, alone", "student, kd-then-adapt", "student, joint", "teacher, adapted"]


def models_in(printed):
    rows = [line.split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    return sorted(row[0].strip("| ") for row in rows[1:])


@pytest.mark.parametrize("confusion", ["mmd", "gradient_reversal"])
def test_the_demonstration_prints_one_table(run_uda, monkeypatch, tmp_path, capsys, confusion):
    """What users see first: both models on both domains, before and after."""
    monkeypatch.setattr(run_uda, "digits", few)
    call(
        run_uda,
        monkeypatch,
        "--output_dir",
        tmp_path,
        "--max_steps",
        "2",
        "--seeds",
        "0",
        *QUICK,
        "--confusion",
        confusion,
    )
    assert models_in(capsys.readouterr().out) == sorted(MODELS)
    joint = tmp_path / "joint-seed0"
    student = AutoModelForImageClassification.from_pretrained(joint)
    teacher = AutoModelForImageClassification.from_pretrained(joint / "adapted-teacher")
    assert student.num_parameters() < teacher.num_parameters()


def test_files_of_both_domains_are_read(run_uda, monkeypatch, tmp_path, capsys):
    """Flags that are not followed would adapt to the digits again, and the output would not say so."""
    parts = few()
    for name, part in (("train", parts.train), ("test", parts.validation)):
        part.rename_columns({"image": "img"}).to_parquet(str(tmp_path / f"{name}.parquet"))
    files = ["--train_files", tmp_path / "train.parquet", "--validation_files", tmp_path / "test.parquet"]
    files += ["--target_files", tmp_path / "test.parquet", "--target_validation_files", tmp_path / "train.parquet"]
    seen = []
    make = run_uda.Work.__init__

    def made(self, source, target, *rest):
        seen.append((len(source.train), len(target.train), target.train.column_names))
        make(self, source, target, *rest)

    monkeypatch.setattr(run_uda.Work, "__init__", made)
    call(
        run_uda,
        monkeypatch,
        *(
            *files,
            "--image_column_name",
            "img",
            "--output_dir",
            tmp_path / "out",
            "--max_steps",
            "2",
            "--seeds",
            "0",
            *QUICK,
        ),
    )
    assert seen == [(64, 32, ["img", "label"])] and len(models_in(capsys.readouterr().out)) == 5


def test_domains_of_other_classes_and_unknown_confusions_are_refused(run_uda, monkeypatch, tmp_path):
    """Classes are matched by name across domains, and a mistake must not cost the teacher's training."""
    monkeypatch.setattr(run_uda, "digits", few)
    with pytest.raises(ValueError, match="confusion must be 'mmd' or 'gradient_reversal', got 'none'"):
        call(run_uda, monkeypatch, "--output_dir", tmp_path, "--confusion", "none", *QUICK)
    other = few()
    renamed = type(other)(other.train, other.validation, [f"digit {name}" for name in other.labels], other.name)
    with pytest.raises(ValueError, match="source and target must have the same classes"):
        run_uda.Work(few(), renamed, None, None)
