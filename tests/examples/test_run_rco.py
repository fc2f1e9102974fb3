"""The example of route constrained optimisation as users run it."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_abkd.data.digits import digits

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
QUICK = ["--use_cpu", "--disable_tqdm", "1", "--per_device_train_batch_size", "8", "--dataloader_pin_memory", "0"]


@pytest.fixture
def run_rco(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("run_rco")


@pytest.fixture
def workspace(tmp_path: Path, run_rco: ModuleType) -> Path:
    """A folder with the configs of a teacher and a student, and digits as parquet files."""
    cifar = importlib.import_module("cifar_models")
    labels = {"id2label": {i: str(i) for i in range(10)}, "label2id": {str(i): i for i in range(10)}}
    for name, widths in (("teacher", (4, 8, 16)), ("student", (4, 6, 8))):
        torch.manual_seed(0)
        cifar.CifarResNetConfig(depth=8, widths=widths, **labels).save_pretrained(tmp_path / name)
        cifar.cifar_processor().save_pretrained(tmp_path / name)
    images = digits()
    for name, part in (("train", images.train), ("test", images.validation)):
        part.select(range(48)).rename_columns({"image": "img"}).to_parquet(str(tmp_path / f"{name}.parquet"))
    return tmp_path


def call(run_rco: ModuleType, monkeypatch: pytest.MonkeyPatch, *flags: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["run_rco.py", *map(str, flags)])
    run_rco.main()


def real(workspace: Path, model: str, out: str, *flags: str | Path) -> list[str | Path]:
    return [
        *("--student_name_or_path", workspace / model, "--image_column_name", "img"),
        *("--train_files", workspace / "train.parquet", "--validation_files", workspace / "test.parquet"),
        *("--output_dir", workspace / out, "--max_steps", "4", *QUICK, *flags),
    ]


def anchors_of(folder: Path) -> list[float]:
    (state,) = folder.glob("checkpoint-*/trainer_state.json")
    return [entry["anchor"] for entry in json.loads(state.read_text())["log_history"] if "anchor" in entry]


def test_the_demonstration_prints_one_table(
    run_rco: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A user's first contact: no download, no flag."""
    call(run_rco, monkeypatch, "--output_dir", tmp_path / "out", "--max_steps", "4", "--seeds", "3", *QUICK)
    shown = capsys.readouterr().out
    rows = [line for line in shown.splitlines() if line.startswith("|")]
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| student alone", "| KD", "| RCO"]
    assert shown.count("Accuracy of the anchors: ") == 1
    assert [path.name for path in sorted((tmp_path / "out" / "route").iterdir())] == [
        f"anchor-{n}" for n in (1, 2, 3, 4)
    ]
    assert anchors_of(tmp_path / "out" / "rco-seed3") == [1, 2, 3, 4]
    _, info = AutoModelForImageClassification.from_pretrained(tmp_path / "out" / "rco-seed3", output_loading_info=True)
    assert not any(info.values()) and AutoImageProcessor.from_pretrained(tmp_path / "out" / "rco-seed3")


def test_own_images_are_taught_along_a_recorded_route(
    run_rco: ModuleType, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The two commands of the README, the choices among anchors, and a plain Trainer's checkpoints as a route."""
    saving = ["--save_strategy", "steps", "--save_steps", "1", "--save_total_limit", "9"]
    call(run_rco, monkeypatch, *real(workspace, "teacher", "taught", "--record", *saving))
    route = workspace / "taught" / "route"
    assert len(list(route.iterdir())) == 4
    for out, flags, expected in (
        ("all", ["--route", route], [1, 2, 3, 4]),
        ("two", ["--route", workspace / "taught", "--anchor_count", "2"], [1, 2]),
        ("named", ["--anchors", route / "anchor-2", route / "anchor-4", "--restart"], [1, 2]),
        ("greedy", ["--route", route, "--greedy_delta", "1.5", "--greedy_samples", "8", "--anchor_count", "2"], [1, 4]),
    ):
        call(run_rco, monkeypatch, *real(workspace, "student", out, *flags))
        assert anchors_of(workspace / out / "rco-seed42") == expected
        assert "| RCO | " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "by one of --route and --anchors"),
        (["--route", "absent"], "there is no folder absent"),
        (["--anchors", "absent"], "there is no folder 'absent'; a revision on the Hub"),
        (["--route", "."], r"holds no checkpoint-\*"),
    ],
)
def test_mistakes_are_named_before_anything_is_loaded(
    run_rco: ModuleType, workspace: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], message: str
) -> None:
    """A typing error must not cost a night."""
    monkeypatch.chdir(workspace)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        call(run_rco, monkeypatch, *real(workspace, "student", "out", *flags))
    assert not (workspace / "out").exists()
