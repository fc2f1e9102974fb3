"""`hf-abkd evaluate`, as users call it."""

import json
from pathlib import Path

import pytest
import torch
from datasets import load_dataset
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_abkd.cli import main as cli
from hf_abkd.reports.intervals import paired_difference, share

IMAGES = ["--validation_files", "rows.parquet"]


def said(name):
    """The classes that a stored model says of the images, without any of this package."""
    rows = load_dataset("parquet", data_files="rows.parquet", split="train")
    model, processor = AutoModelForImageClassification.from_pretrained(name), AutoImageProcessor.from_pretrained(name)
    with torch.no_grad():
        logits = model.eval()(**processor(list(rows["image"]), return_tensors="pt")).logits
    return logits.argmax(1).numpy(), torch.tensor(rows["label"]).numpy()


@pytest.mark.usefixtures("workspace")
def test_a_student_is_measured_beside_its_teacher_and_a_baseline(capsys):
    """One number per model without its interval, each from another script, is how 0.3 points become a result."""
    flags = ["--teacher", "teacher", "--baseline", "teacher", "--batch_size", "7", "--json", "found.json"]
    assert cli.main(["evaluate", "student", *IMAGES, *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    ours, truth = said("student")
    theirs, _ = said("teacher")
    assert lines[0] == "rows.parquet: 24 images of 4 classes"
    student, teacher, baseline = lines[3:6]
    assert student.startswith("| student student | ") and str(share(ours == truth)) in student
    assert str(share(ours == theirs)) in student
    assert str(share(theirs == truth)) in teacher and teacher.endswith("|  |")
    assert baseline.startswith("| baseline teacher |") and str(share(theirs == theirs)) in baseline
    difference = paired_difference(ours == truth, theirs == truth)
    assert lines[6].startswith(f"student against baseline teacher: {difference}") and len(lines) == 7
    found = json.loads(Path("found.json").read_text())
    assert [one["role"] for one in found["models"]] == ["student", "teacher", "baseline"]
    assert found["models"][0]["accuracy"]["value"] == (ours == truth).mean()
    assert found["models"][1]["teacher_agreement"] is None
    assert found["student_against"]["teacher"]["value"] == pytest.approx(difference.value)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["student"], "one of --validation_files and --validation_dir"),
        (["student", "--validation_files", "absent.parquet"], "absent.parquet"),
        (["./absent", *IMAGES], "absent"),
        (["bare", *IMAGES], "the student bare has no weights"),
        (["student", *IMAGES, "--batch_size", "0"], "--batch_size must be at least 1"),
        (["student", *IMAGES, "--streaming"], "leave out --streaming"),
        (IMAGES, "--student"),
    ],
)
def test_mistakes_are_told_in_a_line(workspace, words, told, capsys):
    """A student whose weights were not saved would be measured with random ones."""
    (workspace / "bare").mkdir()
    (workspace / "bare" / "config.json").write_text((workspace / "student" / "config.json").read_text())
    with pytest.raises(SystemExit) as end:
        cli.main(["evaluate", *words])
    shown = capsys.readouterr().err
    assert end.value.code == 2 and told in shown and shown.count("\n") == 1


def test_training_flags_give_the_images_that_the_run_held_out(workspace, capsys):
    """Measured on what it was trained on, learning by heart counts as accuracy."""
    assert cli.main(["evaluate", "student", "--train_files", "rows.parquet", "--train_val_split", "0.5"]) == 0
    assert capsys.readouterr().out.startswith("rows.parquet: 12 images of 4 classes")
    assert cli.main(["evaluate", "student", *IMAGES, "--max_eval_samples", "8"]) == 0
    assert capsys.readouterr().out.startswith("rows.parquet: 8 images of 4 classes")
