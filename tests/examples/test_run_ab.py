"""The main example as users run it: the demonstration, real input, and the mistakes of a command line."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_abkd.data.digits import digits
from hf_abkd.layers.plan import Plan

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
QUICK = ["--max_steps", "2", "--use_cpu", "--disable_tqdm", "1", "--per_device_train_batch_size", "8"]


@pytest.fixture
def run_ab(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("run_ab")


@pytest.fixture
def workspace(tmp_path: Path, run_ab: ModuleType) -> Path:
    """A folder with a teacher, the config of a student, and digits as parquet files in other columns' names."""
    cifar = importlib.import_module("cifar_models")
    names = [str(digit) for digit in range(10)]
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    torch.manual_seed(0)
    teacher = cifar.CifarResNetForImageClassification(cifar.CifarResNetConfig(depth=8, widths=(4, 8, 16), **labels))
    student = cifar.CifarResNetForImageClassification(cifar.CifarResNetConfig(depth=8, widths=(4, 6, 8), **labels))
    teacher.save_pretrained(tmp_path / "teacher")
    cifar.cifar_processor().save_pretrained(tmp_path / "teacher")
    student.save_pretrained(tmp_path / "student")
    (tmp_path / "student" / "model.safetensors").unlink()
    images = digits()
    for name, part in (("train", images.train), ("test", images.validation)):
        part.select(range(40)).rename_columns({"image": "img"}).to_parquet(str(tmp_path / f"{name}.parquet"))
    return tmp_path


def call(run_ab: ModuleType, monkeypatch: pytest.MonkeyPatch, *flags: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["run_ab.py", *map(str, flags)])
    run_ab.main()


def real(workspace: Path, *flags: str | Path) -> list[str | Path]:
    return [
        *("--teacher_name_or_path", workspace / "teacher", "--student_name_or_path", workspace / "student"),
        *("--train_files", workspace / "train.parquet", "--validation_files", workspace / "test.parquet"),
        *("--image_column_name", "img", "--output_dir", workspace / "out", *QUICK, *flags),
    ]


@pytest.mark.slow
def test_first_command_prints_one_table_and_leaves_a_model_that_loads(tmp_path: Path) -> None:
    """A user's first contact: if the demonstration fails on a fresh machine, nothing else matters."""
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", str(EXAMPLES / "run_ab.py")]
    done = subprocess.run(
        [*command, "--output_dir", str(tmp_path / "out"), *QUICK, "--seeds", "3"],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = _results(done.stdout)
    assert [row.split(" | ")[0] for row in rows] == ["| model", "| teacher", "| student alone", "| KD", "| AB, then KD"]
    assert rows[-1].count("->") == 3  # the boundary agreement of each layer, before and after
    folder = tmp_path / "out" / "ab-seed3"
    _, info = AutoModelForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    assert AutoImageProcessor.from_pretrained(folder) is not None
    assert "distilled from the teacher" in (folder / "README.md").read_text()


def test_own_models_and_files_are_distilled(
    run_ab: ModuleType, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The main job on real input: the flags of the README must reach the trainer."""
    call(run_ab, monkeypatch, *real(workspace))
    assert "| AB, then KD | " in capsys.readouterr().out
    state = json.loads((workspace / "out" / "checkpoint-2" / "trainer_state.json").read_text())
    assert state["global_step"] == state["max_steps"] == 2
    assert AutoModelForImageClassification.from_pretrained(workspace / "out").config.id2label[3] == "3"


def test_baseline_needs_no_teacher(run_ab: ModuleType, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparison is only fair when the baseline runs through the same trainer."""
    flags = real(workspace, "--baseline", "--image_processor_name", workspace / "teacher")
    call(run_ab, monkeypatch, *flags[2:])
    assert (workspace / "out" / "model.safetensors").is_file()


def test_comparison_resumes_where_it_stopped(
    run_ab: ModuleType, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nine runs take hours: one that was stopped must not start from nothing, nor print another table."""
    flags = real(workspace, "--compare", "--seeds", "0", "1", "--save_strategy", "steps", "--save_steps", "1")
    call(run_ab, monkeypatch, *flags)
    first = capsys.readouterr().out
    call(run_ab, monkeypatch, *flags, "--resume_from_checkpoint", "True")
    assert "±" in first
    assert _accuracies(capsys.readouterr().out) == _accuracies(first)


def test_streamed_files_train_alike(run_ab: ModuleType, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data sets that do not fit on the disk are streamed."""
    call(run_ab, monkeypatch, *real(workspace, "--streaming"))
    assert (workspace / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--image_column_name": "image"}, "img"),
        ({"--train_files": "absent.parquet"}, "absent.parquet"),
        (
            {"--teacher_layers": "layer9.0.relu2", "--student_layers": "layer3.0.relu2"},
            "no module 'layer9.0.relu2'; close names: .*layer3.0.relu2",
        ),
        ({"--student_layers": "layer1.0.relu2"}, "as many layers"),
        ({"--plan": "absent.yaml"}, "no plan absent.yaml"),
        ({"--plan": "plan.yaml", "--student_layers": "layer1.0.relu2"}, "leave out --student_layers"),
        ({"--student_name_or_path": "./absent"}, "absent"),
        ({"--initialization_share": "1.5"}, "share is in"),
        ({"--kd_weight": "-1"}, "weight must be finite and not negative"),
    ],
)
def test_mistakes_are_named_before_the_first_step(
    run_ab: ModuleType,
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, str],
    message: str,
) -> None:
    """A typing error must not cost a night of training, or the run of another night."""
    flags = [str(flag) for flag in real(workspace)]
    for flag, value in changes.items():
        if flag in flags:
            flags[flags.index(flag) + 1] = value
        else:
            flags += [flag, value]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        call(run_ab, monkeypatch, *flags)
    assert not list((workspace / "out").glob("*"))


def test_second_run_into_one_folder_is_refused(
    run_ab: ModuleType, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plain Trainer would mix the checkpoints of two runs."""
    call(run_ab, monkeypatch, *real(workspace))
    before = (workspace / "out" / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="holds another run"):
        call(run_ab, monkeypatch, *real(workspace))
    assert (workspace / "out" / "model.safetensors").read_bytes() == before


def test_students_own_processor_is_used_beside_the_teachers(
    run_ab: ModuleType, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A teacher that gets images normalised for the student guesses, and the student is published with its own."""
    own = importlib.import_module("cifar_models").cifar_processor("wide_resnet")
    own.save_pretrained(workspace / "student")
    call(run_ab, monkeypatch, *real(workspace))
    assert AutoImageProcessor.from_pretrained(workspace / "out").image_mean == own.image_mean


def test_layers_of_a_plan_and_named_ones_are_printed_once(
    run_ab: ModuleType, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which layers are paired decides the result: a comparison must show it, and not once for every seed."""
    Plan.of_names([("layer3.0.relu2", "layer2.0.relu2")]).save(workspace / "plan.yaml")
    flags = real(workspace, "--plan", workspace / "plan.yaml", "--compare", "--seeds", "0", "1")
    call(run_ab, monkeypatch, *flags)
    shown = capsys.readouterr().out
    assert shown.count("student  layer3.0.relu2  8 x 8x8 (NCHW)") == 1
    assert "layer1.0.relu2" not in shown


def _results(shown: str) -> list[str]:
    """The table of results; that of the layers stands before it."""
    return [line for line in shown[shown.index("| model |") :].splitlines() if line.startswith("| ")]


def _accuracies(shown: str) -> list[str]:
    return [line.split("|")[3] for line in _results(shown)]
