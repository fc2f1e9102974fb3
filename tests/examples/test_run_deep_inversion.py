"""The data-free example as users run it: the demonstration and real input."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
from test_run_ab import EXAMPLES, QUICK, workspace  # noqa: F401  (a fixture)

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
    flags = [
        *("--teacher_name_or_path", workspace / "teacher", "--student_name_or_path", workspace / "student"),
        *("--train_files", workspace / "train.parquet", "--validation_files", workspace / "test.parquet"),
        *("--image_column_name", "img", "--output_dir", workspace / "out", *QUICK, *SMALL),
    ]
    call(example, monkeypatch, *flags)
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(table) == 4
    assert all(line.split("|")[3].strip() == "-" for line in table[1:])
    quality = json.loads((workspace / "out/synthesized/quality.json").read_text())
    assert quality["images"] == 12
