"""The example of route constrained optimisation as users run it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from example_runs import PLAIN, call, imported, rows_of
from transformers import AutoImageProcessor, AutoModelForImageClassification

QUICK = [
    "--use_cpu",
    "--disable_tqdm",
    "1",
    "--per_device_train_batch_size",
    "8",
    "--dataloader_pin_memory",
    "0",
    *PLAIN,
]


def real(workspace: Path, model: str, out: str, *flags: str | Path) -> list[str | Path]:
    return [
        *("--student_name_or_path", workspace / model, "--image_column_name", "img"),
        *("--train_files", workspace / "train.parquet", "--validation_files", workspace / "test.parquet"),
        *("--output_dir", workspace / out, "--max_steps", "4", *QUICK, *flags),
    ]


def anchors_of(folder: Path) -> list[float]:
    (state,) = folder.glob("checkpoint-*/trainer_state.json")
    return [entry["anchor"] for entry in json.loads(state.read_text())["log_history"] if "anchor" in entry]


@pytest.mark.usefixtures("demonstrated_on_few")
def test_the_demonstration_prints_one_table(tmp_path: Path) -> None:
    """A user's first contact: no download, no flag."""
    shown = call("run_rco", "--output_dir", tmp_path / "out", "--max_steps", "4", "--seeds", "3", *QUICK)
    assert [row[0] for row in rows_of(shown)] == ["model", "student alone", "KD", "RCO"]
    assert shown.count("Accuracy of the anchors: ") == 1
    assert [path.name for path in sorted((tmp_path / "out" / "route").iterdir())] == [
        f"anchor-{n}" for n in (1, 2, 3, 4)
    ]
    assert anchors_of(tmp_path / "out" / "rco-seed3") == [1, 2, 3, 4]
    _, info = AutoModelForImageClassification.from_pretrained(tmp_path / "out" / "rco-seed3", output_loading_info=True)
    assert not any(info.values()) and AutoImageProcessor.from_pretrained(tmp_path / "out" / "rco-seed3")


def test_own_images_are_taught_along_a_recorded_route(workspace: Path) -> None:
    """The two commands of the README, the choices among anchors, and a plain Trainer's checkpoints as a route."""
    imported("cifar_weights").cifar_processor().save_pretrained(workspace / "student")
    saving = ["--save_strategy", "steps", "--save_steps", "1", "--save_total_limit", "9"]
    call("run_rco", *real(workspace, "teacher-config", "taught", "--record", *saving))
    route = workspace / "taught" / "route"
    assert len(list(route.iterdir())) == 4
    for out, flags, expected in (
        ("all", ["--route", route], [1, 2, 3, 4]),
        ("two", ["--route", workspace / "taught", "--anchor_count", "2"], [1, 2]),
        ("named", ["--anchors", route / "anchor-2", route / "anchor-4", "--restart"], [1, 2]),
        ("greedy", ["--route", route, "--greedy_delta", "1.5", "--greedy_samples", "8", "--anchor_count", "2"], [1, 4]),
    ):
        printed = call("run_rco", *real(workspace, "student", out, *flags))
        assert anchors_of(workspace / out) == expected
        assert "| RCO | " in printed


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
    workspace: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], message: str
) -> None:
    """A typing error must not cost a night."""
    monkeypatch.chdir(workspace)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        call("run_rco", *real(workspace, "student", "out", *flags))
    assert not (workspace / "out").exists()
