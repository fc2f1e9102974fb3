"""`hf-abkd evaluate`, as users call it."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from datasets import load_dataset
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_abkd.cli import main as cli
from hf_abkd.reports.evaluation import stored_evaluation
from hf_abkd.reports.intervals import paired_difference, share

IMAGES = ["--validation_files", "rows.parquet"]


def said(name):
    """The classes that a stored model says of the images, without any of this package."""
    rows = load_dataset("parquet", data_files="rows.parquet", split="train")
    model, processor = AutoModelForImageClassification.from_pretrained(name), AutoImageProcessor.from_pretrained(name)
    with torch.no_grad():
        logits = model.eval()(**processor(list(rows["image"]), return_tensors="pt")).logits
    return logits.argmax(1).numpy(), torch.tensor(rows["label"]).numpy()


QUICK = ["--no_latency", "--boundary_images", "0"]


def rows_of(lines):
    """The cells of the first table, by the first cell of their row."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {row[0]: row[1:] for row in reversed(cells)}


@pytest.mark.usefixtures("workspace")
def test_a_student_is_measured_beside_its_teacher_and_a_baseline(capsys):
    """One number per model without its interval, each from another script, is how 0.3 points become a result."""
    flags = ["--teacher", "teacher", "--baseline", "teacher", "--batch_size", "7", "--json", "found.json", *QUICK]
    assert cli.main(["evaluate", "student", *IMAGES, *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    ours, truth = said("student")
    theirs, _ = said("teacher")
    assert lines[0] == "rows.parquet: 24 images of 4 classes"
    rows = rows_of(lines)
    assert rows[""] == ["student student", "teacher teacher", "baseline teacher"]
    right, taught = (ours == truth).mean(), (theirs == truth).mean()
    assert rows["accuracy"][0] == f"{100 * right:.2f} % ({right / taught:.2f}x)"
    assert rows["accuracy"][1] == f"{100 * taught:.2f} %"
    assert rows["same class as the teacher"] == [f"{100 * (ours == theirs).mean():.2f} %", "", "100.00 %"]
    difference = paired_difference(ours == truth, theirs == truth)
    compared = [line for line in lines if line.startswith("student against ")]
    assert compared[0].startswith(f"student against teacher teacher: {difference}")
    assert compared[1].startswith(f"student against baseline teacher: {difference}")
    found = json.loads(Path("found.json").read_text())
    assert [one["role"] for one in found["models"]] == ["student", "teacher", "baseline"]
    assert found["models"][0]["accuracy"] == asdict(share(ours == truth))
    assert found["models"][0]["agreement"]["top_1"]["value"] == (ours == theirs).mean()
    assert found["models"][1]["agreement"] is None
    assert [one["role"] for one in found["against"]] == ["teacher", "baseline"]
    assert found["against"][0]["difference"]["value"] == pytest.approx(difference.value)
    assert found["boundaries"] is found["machine"] is None


@pytest.mark.usefixtures("workspace")
def test_what_a_student_costs_is_told_and_kept(capsys):
    """A student that is small and slow is found out by its users."""
    flags = ["--latency_batch_sizes", "2", "--boundary_images", "5", "--corruptions", "--severities", "5"]
    assert cli.main(["evaluate", "./student", *IMAGES, "--teacher", "teacher", "--save", *flags]) == 0
    out = capsys.readouterr().out
    rows = rows_of(out.splitlines())
    sizes = [Path(name, "model.safetensors").stat().st_size for name in ("student", "teacher")]
    found = json.loads(Path("student/evaluation.json").read_text())
    student, teacher = found["models"]
    assert student["name"] == "student" and [one["weight_bytes"] for one in (student, teacher)] == sizes
    # What `hf-abkd report` draws is what was written.
    drawn = stored_evaluation(Path("student")).of("student")
    assert drawn.multiply_adds == student["multiply_adds"] and drawn.milliseconds(2) > 0
    assert f"{sizes[0] / 1000:.3g} kB ({sizes[0] / sizes[1]:.2f}x)" == rows["weights on the disk"][0]
    assert student["latencies"][0]["batch_size"] == 2 and rows["latency, batch of 2"][0].endswith("x)")
    assert len(student["corrupted"]) == 4 and "on images with gaussian noise 5" in rows
    assert found["machine"]["threads"] == 1 and "timed on" in out
    assert found["boundaries"]["images"] == 5 and found["boundaries"]["pairs"]
    assert "A connector is trained with the student" in out
    assert f"{student['parameters']:,} ({student['parameters'] / teacher['parameters']:.2f}x)" == rows["parameters"][0]
    assert "the student has" in out and out.endswith("The numbers are in student/evaluation.json\n")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["student"], "one of --validation_files and --validation_dir"),
        (["student", "--validation_files", "absent.parquet"], "absent.parquet"),
        (["./absent", *IMAGES], "absent"),
        (["bare", *IMAGES], "the student bare has no weights"),
        (["student", *IMAGES, "--batch_size", "0"], "--batch_size must be at least 1"),
        (["student", *IMAGES, "--latency_batch_sizes", "1", "0"], "--latency_batch_sizes must be at least 1, got 0"),
        (["student", *IMAGES, "--boundary_images", "-1"], "--boundary_images must not be negative"),
        (["student", *IMAGES, "--plan", "plan.yaml"], "give --teacher, too"),
        (["student", *IMAGES, "--teacher", "teacher", "--plan", "plan.yaml"], "there is no plan plan.yaml"),
        (["student", *IMAGES, "--corruptions", "--severities", "6"], "from 1 to 5, got 6"),
        (["some/model", *IMAGES, "--save"], "--save writes into the folder of the student"),
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
    assert cli.main(["evaluate", "student", "--train_files", "rows.parquet", "--train_val_split", "0.5", *QUICK]) == 0
    assert capsys.readouterr().out.startswith("rows.parquet: 12 images of 4 classes")
    assert cli.main(["evaluate", "student", *IMAGES, "--max_eval_samples", "8", *QUICK]) == 0
    assert capsys.readouterr().out.startswith("rows.parquet: 8 images of 4 classes")
