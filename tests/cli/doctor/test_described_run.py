"""Runs that flags describe."""

from collections import Counter

import numpy as np
import patients
import pytest
import tiny
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from transformers import ViTImageProcessorPil

from hf_abkd.cli import run_flags
from hf_abkd.cli.doctor.checks import CHECKS
from hf_abkd.cli.doctor.described_run import described_by_flags, examine_run
from hf_abkd.data.arguments import DataArguments
from hf_abkd.models.arguments import ModelArguments


@pytest.fixture
def workspace(tmp_path):
    """A teacher and a student with weights, and a data set of mean colours, in files."""
    for name, width in (("teacher", 8), ("student", 4)):
        model = patients.name_classes(tiny.resnet(width, seed=width), patients.NAMES)
        model.save_pretrained(tmp_path / name)
        ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path / name)
    generator = np.random.default_rng(0)
    pixels = [generator.integers(60 * (row % 4), 60 * (row % 4) + 60, (16, 16, 3), dtype=np.uint8) for row in range(24)]
    rows = Dataset.from_dict(
        {"image": [PILImage.fromarray(one) for one in pixels], "label": [row % 4 for row in range(24)]},
        features=Features({"image": Image(), "label": ClassLabel(names=patients.NAMES)}),
    )
    for name in ("rows.parquet", "validation.parquet"):
        rows.to_parquet(str(tmp_path / name))
    return tmp_path


def examined_flags(workspace, run=None, *, method="ab", models=None, data=None, **settings):
    names = {"teacher_name_or_path": "teacher", "student_name_or_path": "student", **(models or {})}
    parts = {"train_files": "rows", "validation_files": "validation"}
    files = {flag: [str(workspace / f"{name}.parquet")] for flag, name in parts.items()}
    paths = {key: str(workspace / value) if isinstance(value, str) else value for key, value in names.items()}
    settings = {"output_dir": str(workspace / "out"), "use_cpu": True, "per_device_train_batch_size": 4, **settings}
    # Fast copies of a teacher take longer to make than to look at.
    settings |= dict.fromkeys(("teacher_fold_batch_norm", "teacher_channels_last", "teacher_in_place"), False)
    described = described_by_flags(
        method,
        run_flags.RunArguments(**(run or {})),
        ModelArguments(**paths),
        DataArguments(**{**files, **(data or {})}),
        run_flags.TrainingArguments(**settings),
    )
    return list(examine_run(described))


def test_flags_of_a_run_are_examined_and_leave_nothing_behind(workspace):
    """The same words as for training, without what training writes."""
    before = {path: path.stat().st_mtime_ns for path in workspace.rglob("*")}
    findings = examined_flags(workspace)
    assert {one.check for one in findings} == {"run", *CHECKS}
    assert not [one.text() for one in findings if one.level == "error"]
    assert {path: path.stat().st_mtime_ns for path in workspace.rglob("*")} == before
    assert "learns from ResNetForImageClassification" in findings[0].message


def test_baseline_is_examined_without_a_teacher(workspace):
    """The run without a teacher is part of every comparison."""
    findings = examined_flags(workspace, method="alone", models={"teacher_name_or_path": None})
    assert not [one.text() for one in findings if one.level in ("warning", "error")]
    assert "teacher" not in {one.check for one in findings}


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (
            {"student_layers": ["resnet.encoder.stage.1"], "teacher_layers": [patients.LAYER]},
            "no module 'resnet.encoder.stage",
        ),
        ({"student_layers": ["classifier.1"], "teacher_layers": [patients.LAYER]}, "activation"),
        ({"plan": "absent.yaml"}, "no plan absent.yaml"),
        ({"initialization_share": 2.0}, "share"),
    ],
)
def test_run_that_cannot_be_made_is_an_error_and_the_rest_is_still_examined(workspace, run, message):
    """A user with two mistakes wants to hear of both."""
    findings = examined_flags(workspace, run)
    errors = [one for one in findings if one.level == "error"]
    assert len(errors) == 1 and message in errors[0].message
    assert Counter(one.check for one in findings if one.level == "ok")["checkpoint"] == 1
    # Of 24 images nothing can be said of a teacher that guesses.
    assert any(one.check == "teacher" and "too few images" in one.message for one in findings)


def test_missing_teacher_is_one_error(workspace):
    """The same mistake must not be told by every check."""
    findings = examined_flags(workspace, models={"teacher_name_or_path": "absent"})
    assert [one.level for one in findings] == ["error"] and "no such file" in findings[0].message


def test_mistake_that_no_trainer_survives_is_one_error(workspace):
    """The run in its place fails for the same reason, which is not a second mistake."""
    settings = {"eval_strategy": "steps", "save_strategy": "steps", "load_best_model_at_end": True}
    findings = examined_flags(workspace, data={"validation_files": None, "train_val_split": 0.0}, **settings)
    assert [one.level for one in findings] == ["error"] and "--load_best_model_at_end needs" in findings[0].message


def test_folder_of_another_run_is_found(workspace):
    """Training refuses it, after the models were loaded."""
    (workspace / "out" / "checkpoint-5").mkdir(parents=True)
    (workspace / "out" / "checkpoint-5" / "trainer_state.json").write_text("{}")
    findings = [one for one in examined_flags(workspace) if one.check == "output folder"]
    assert [one.level for one in findings] == ["ok"] and "goes on from" in findings[0].message
    findings = [one for one in examined_flags(workspace, resume_from_checkpoint=None) if one.check == "output folder"]
    assert [one.level for one in findings] == ["error"] and "checkpoint-5" in findings[0].message
    findings = examined_flags(workspace, overwrite_output_dir=True)
    assert "output folder" not in {one.check for one in findings}


@pytest.mark.parametrize(
    ("names", "level", "text"),
    [
        (patients.NAMES[::-1], "warning", "in another order"),
        (["elk", "gnu", "emu", "fox"], "note", "renamed after the data"),
        ([*patients.NAMES, "emu"], "note", "head for 5 classes is replaced by a random one for 4"),
    ],
)
def test_what_becomes_of_the_students_head_is_told_once(workspace, names, level, text):
    """A head whose classes mean something else starts worse than a random one."""
    patients.name_classes(tiny.resnet(4, seed=4, classes=len(names)), names).save_pretrained(workspace / "student")
    findings = examined_flags(workspace, models={"ignore_mismatched_sizes": True})
    told = [one for one in findings if text in one.message]
    assert [one.level for one in told] == [level]


def test_student_without_weights_has_no_head_to_lose(workspace):
    """The classes of a config are nobody's knowledge."""
    patients.name_classes(tiny.resnet(4, seed=4, classes=5), [*patients.NAMES, "emu"]).save_pretrained(
        workspace / "student"
    )
    (workspace / "student" / "model.safetensors").unlink()
    assert not [one.text() for one in examined_flags(workspace) if "head" in one.message]


def test_teacher_without_a_processor_is_told(workspace):
    """Nobody can see from the outside what it was trained on."""
    (workspace / "teacher" / "preprocessor_config.json").unlink()
    findings = [one for one in examined_flags(workspace) if one.check == "images"]
    assert any(one.level == "note" and "without an image processor" in one.message for one in findings)
