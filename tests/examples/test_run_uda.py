"""The example of joint adaptation as users run it."""

from __future__ import annotations

import dataclasses

import pytest
from example_runs import PLAIN, call, few_digits, imported, rows_of
from transformers import AutoModelForImageClassification, ViTImageProcessorPil

from hf_abkd.cli.domains import prepared_domains
from hf_abkd.data.arguments import DataArguments
from hf_abkd.reports.evaluation import stored_evaluation

QUICK = [
    "--use_cpu",
    "--disable_tqdm",
    "1",
    "--per_device_train_batch_size",
    "16",
    "--dataloader_pin_memory",
    "0",
    *PLAIN,
]
SHORT = ["--max_steps", "2", "--seeds", "0", *QUICK]
MODELS = ["teacher, source only", "student, alone", "student, kd-then-adapt", "student, joint", "teacher, adapted"]

pytestmark = pytest.mark.usefixtures("demonstrated_on_few")


def models_in(printed):
    return [row[0] for row in rows_of(printed)[1:]]


def test_the_demonstration_prints_one_table(tmp_path):
    """What users see first: both models on both domains, before and after.

    And below it what the joint run came to, on images of the target alone: those of the source say nothing of adapting.
    """
    printed = call("run_uda", "--output_dir", tmp_path, *SHORT)
    assert models_in(printed) == MODELS
    joint = tmp_path / "joint-seed0"
    found = stored_evaluation(joint)
    on_target = {row[0]: row[2] for row in rows_of(printed)[1:]}
    told = {one.role: f"{100 * one.accuracy.value:.2f} %" for one in found.models if one.role in ("student", "teacher")}
    assert told == {"student": on_target["student, joint"], "teacher": on_target["teacher, adapted"]}
    assert found.images == "evaluation images of the target, digits, thick strokes" and found.count == 32
    assert [one.name for one in found.models if one.role == "baseline"] == ["alone-seed0", "kd-then-adapt-seed0"]
    beside = rows_of(printed, "")
    assert beside[0][2:4] == ["joint-seed0 before the run", "joint-seed0"] and beside[1][3].startswith(told["student"])
    assert "joint-seed0 before the run" in (joint / "README.md").read_text()
    student = AutoModelForImageClassification.from_pretrained(joint)
    teacher = AutoModelForImageClassification.from_pretrained(joint / "adapted-teacher")
    assert student.num_parameters() < teacher.num_parameters()


def test_files_of_both_domains_are_read(monkeypatch, tmp_path):
    """Flags that are not followed would adapt to the digits again, and the output would not say so."""
    parts = few_digits()
    for name, part in (("train", parts.train), ("test", parts.validation)):
        part.rename_columns({"image": "img"}).to_parquet(str(tmp_path / f"{name}.parquet"))
    files = ["--train_files", tmp_path / "train.parquet", "--validation_files", tmp_path / "test.parquet"]
    files += ["--target_files", tmp_path / "test.parquet", "--target_validation_files", tmp_path / "train.parquet"]
    seen, reduced = [], []

    def prepared(source, target, *more, **settings):
        seen.append((len(source.train), len(target.train), target.train.column_names))
        domains = prepared_domains(source, target, *more, **settings)
        images = [domains.source, domains.both.target_domain, *domains.validation.values()]
        reduced.extend(one.format["format_kwargs"]["transform"].least_side for one in images)
        return domains

    monkeypatch.setattr(imported("run_uda"), "prepared_domains", prepared)
    flags = ["--image_column_name", "img", "--output_dir", tmp_path / "out", "--confusion", "gradient_reversal"]
    flags += ["--reduced_decoding", "--measure_run", "false"]
    printed = call("run_uda", *files, *flags, *SHORT)
    assert seen == [(64, 32, ["img", "label"])]
    # What is trained on, and not what it is judged by.
    assert reduced[0] == reduced[1] > 0 and reduced[2:] == [None, None]
    assert models_in(printed) == MODELS
    joint = tmp_path / "out" / "joint-seed0"
    student = AutoModelForImageClassification.from_pretrained(joint)
    teacher = AutoModelForImageClassification.from_pretrained(joint / "adapted-teacher")
    assert student.num_parameters() < teacher.num_parameters()


@pytest.mark.parametrize("flag", [["--kd_weight", "0.5"], ["--flip"], ["--teacher_name_or_path", "mine"]])
def test_flags_that_would_do_nothing_are_refused(flag, tmp_path):
    """The models are its own, and so is how they learn: a user would wait for a run of something else."""
    with pytest.raises(ValueError, match=f"there is no flag {flag[0]}"):
        call("run_uda", "--output_dir", tmp_path, *flag, *QUICK)
    assert not any(tmp_path.iterdir())


def test_domains_of_other_classes_and_unknown_confusions_are_refused(tmp_path):
    """Classes are matched by name across domains, and a mistake must not cost the teacher's training."""
    with pytest.raises(ValueError, match="confusion must be 'mmd' or 'gradient_reversal', got 'none'"):
        call("run_uda", "--output_dir", tmp_path, "--confusion", "none", *QUICK)
    other = few_digits()
    renamed = dataclasses.replace(other, labels=[f"digit {name}" for name in other.labels])
    with pytest.raises(ValueError, match="source and target must have the same classes"):
        prepared_domains(other, renamed, ViTImageProcessorPil(), DataArguments(), seed=0)
