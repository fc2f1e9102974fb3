"""The data-free example as users run it: the demonstration and real input."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from datasets import load_dataset
from test_run_ab import EXAMPLES, QUICK, workspace  # noqa: F401  (a fixture)

from hf_abkd.methods.deep_inversion.image_quality import Quality, measure_quality

SMALL = ["--iterations", "2", "--num_images", "12", "--image_batch_size", "6", "--seeds", "3"]


@pytest.fixture
def run_ab(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("run_ab")


@pytest.fixture
def example(run_ab: ModuleType) -> ModuleType:
    return importlib.import_module("run_deep_inversion")


def call(example: ModuleType, monkeypatch: pytest.MonkeyPatch, *flags: str | Path) -> None:
    monkeypatch.setattr("sys.argv", ["run_deep_inversion.py", *map(str, flags)])
    example.main()


def own(workspace: Path) -> list[str | Path]:  # noqa: F811
    return [
        *("--teacher_name_or_path", workspace / "teacher", "--student_name_or_path", workspace / "student"),
        *("--train_files", workspace / "train.parquet", "--validation_files", workspace / "test.parquet"),
        *("--image_column_name", "img", "--output_dir", workspace / "out", *QUICK, *SMALL),
    ]


def test_the_demonstration_compares_three_kinds_of_images(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is the first thing that a user runs."""
    monkeypatch.chdir(tmp_path)
    call(example, monkeypatch, *QUICK, *SMALL, "--adaptive")
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [line.split("|")[1].strip() for line in table] == ["images", "synthesised", "noise", "real", "adaptive"]
    assert all("%" in line.split("|")[3] for line in table[1:]), "the verifier judges all of them"
    made = tmp_path / "distilled/data-free"
    assert (made / "synthesized/previews.png").is_file()
    assert (made / "adaptive-seed3/synthesized/data/batch-00001.parquet").is_file()


def test_real_models_and_files_run(
    example: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    workspace: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Column names, processors and sizes are those of the user."""
    call(example, monkeypatch, *own(workspace))
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(table) == 4
    assert all(line.split("|")[3].strip() == "-" for line in table[1:])
    quality = json.loads((workspace / "out/synthesized/quality.json").read_text())
    assert quality["images"] == 12


def test_a_verifier_sees_images_through_its_own_processor(
    example: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    workspace: Path,  # noqa: F811
) -> None:
    """Through the teacher's it would be shown other colours than it knows, and its verdict would mean nothing."""
    cifar = importlib.import_module("cifar_models")
    names = {index: str(index) for index in range(10)}
    verifier = cifar.CifarResNetForImageClassification(
        cifar.CifarResNetConfig(depth=8, widths=(4, 6, 8), id2label=names, label2id={v: k for k, v in names.items()})
    )
    verifier.save_pretrained(workspace / "verifier")
    processor = cifar.cifar_processor()
    processor.image_mean = [0.1, 0.2, 0.3]
    processor.save_pretrained(workspace / "verifier")
    asked = []

    def measure(*given: Any, **judges: Any) -> Quality:
        asked.append(judges["verifier_processor"])
        return measure_quality(*given, **judges)

    monkeypatch.setattr(example, "measure_quality", measure)
    call(example, monkeypatch, *own(workspace), "--verifier", workspace / "verifier")
    assert [list(one.image_mean) for one in asked] == [[0.1, 0.2, 0.3]] * 3


def test_real_images_are_judged_by_the_names_of_their_classes(
    example: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    workspace: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A good teacher with its classes in another order would be said to know nothing."""
    cifar = importlib.import_module("cifar_models")
    names = {index: str(9 - index) for index in range(10)}
    teacher = cifar.CifarResNetForImageClassification(
        cifar.CifarResNetConfig(depth=8, widths=(4, 8, 16), id2label=names, label2id={v: k for k, v in names.items()})
    )
    labels = list(load_dataset("parquet", data_files=str(workspace / "train.parquet"), split="train")["label"][:12])
    said = max(range(10), key=lambda label: labels.count(label) - labels.count(9 - label))
    assert labels.count(said) > labels.count(9 - said)
    with torch.no_grad():
        teacher.linear.weight.zero_()
        teacher.linear.bias.copy_(torch.eye(10)[9 - said])
    teacher.save_pretrained(workspace / "teacher")
    call(example, monkeypatch, *own(workspace))
    (real,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| real ")]
    assert real.split("|")[2].strip() == f"{100 * labels.count(said) / 12:.1f} %"


def test_too_few_real_images_are_refused_before_any_is_made(
    example: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    workspace: Path,  # noqa: F811
) -> None:
    """Fewer real images than made ones would be no comparison, and an error after the images costs hours."""
    with pytest.raises(ValueError, match=r"there are \d+ real images of the teacher's classes; lower --num_images"):
        call(example, monkeypatch, *own(workspace), "--num_images", "4000")
    assert not (workspace / "out" / "synthesized").exists()
    assert not (workspace / "out" / "synthesized.incomplete").exists()
