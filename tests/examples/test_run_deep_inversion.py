"""The example of data-free distillation as users run it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import load_dataset
from example_runs import PLAIN, call, imported, rows_of, small_resnet

from hf_abkd.methods.deep_inversion.image_quality import Quality, measure_quality

QUICK = ["--max_steps", "2", "--use_cpu", "--disable_tqdm", "1", "--per_device_train_batch_size", "8", *PLAIN]
SMALL = ["--iterations", "2", "--num_images", "12", "--image_batch_size", "6", "--seeds", "3"]


def real(workspace: Path, *flags: str | Path) -> list[str | Path]:
    return [
        *("--teacher_name_or_path", workspace / "teacher", "--student_name_or_path", workspace / "student"),
        *("--train_files", workspace / "train.parquet", "--validation_files", workspace / "test.parquet"),
        *("--image_column_name", "img", "--output_dir", workspace / "out", *QUICK, *SMALL, *flags),
        *("--measure_run", "false"),
    ]


@pytest.mark.usefixtures("demonstrated_on_few")
def test_the_demonstration_compares_three_kinds_of_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is the first thing that a user runs; what is asked about is measured beside what it is compared with."""
    monkeypatch.chdir(tmp_path)
    printed = call("run_deep_inversion", *QUICK, *SMALL, "--adaptive")
    rows = rows_of(printed, first="images")
    assert [row[0] for row in rows] == ["images", "noise", "real", "synthesised", "adaptive"]
    assert all("%" in row[2] for row in rows[1:]), "the verifier judges all of them"
    made = tmp_path / "distilled/data-free"
    assert (made / "synthesized/previews.png").is_file()
    assert (made / "adaptive-seed3/synthesized/data/batch-00001.parquet").is_file()
    measured = rows_of(printed)
    assert [row[0] for row in measured] == ["model", "teacher", "noise", "real", "synthesised", "adaptive"]
    beside = rows_of(printed, "")
    others = ["noise-seed3", "real-seed3"]
    assert beside[0][1:] == ["teacher", "adaptive-seed3 before the run", "adaptive-seed3", *others]
    assert [cell.partition(" (")[0] for cell in beside[1][3:]] == [rows[place][5] for place in (4, 1, 2)]
    assert "adaptive-seed3 against synthesised-seed3: " in printed
    assert "synthesised-seed3 before the run" in (made / "synthesised-seed3/README.md").read_text()


def test_a_verifier_sees_images_through_its_own_processor(monkeypatch: pytest.MonkeyPatch, workspace: Path) -> None:
    """Through the teacher's it would be shown other colours than it knows, and its verdict would mean nothing."""
    small_resnet((4, 6, 8)).save_pretrained(workspace / "verifier")
    processor = imported("cifar_weights").cifar_processor()
    processor.image_mean = [0.1, 0.2, 0.3]
    processor.save_pretrained(workspace / "verifier")
    asked = []

    def measure(*given: Any, **judges: Any) -> Quality:
        asked.append(judges["verifier_processor"])
        return measure_quality(*given, **judges)

    monkeypatch.setattr("hf_abkd.cli.image_comparison.measure_quality", measure)
    call("run_deep_inversion", *real(workspace, "--verifier", workspace / "verifier"))
    assert [list(one.image_mean) for one in asked] == [[0.1, 0.2, 0.3]] * 3


def test_real_images_are_judged_by_the_names_of_their_classes(workspace: Path) -> None:
    """A good teacher with its classes in another order would be said to know nothing.

    Column names, processors and sizes are those of the user.
    """
    names = {index: str(9 - index) for index in range(10)}
    teacher = small_resnet((4, 8, 16), id2label=names, label2id={v: k for k, v in names.items()})
    labels = list(load_dataset("parquet", data_files=str(workspace / "train.parquet"), split="train")["label"][:12])
    said = max(range(10), key=lambda label: labels.count(label) - labels.count(9 - label))
    assert labels.count(said) > labels.count(9 - said)
    with torch.no_grad():
        teacher.linear.weight.zero_()
        teacher.linear.bias.copy_(5 * torch.eye(10)[9 - said])
    teacher.save_pretrained(workspace / "teacher")
    rows = rows_of(call("run_deep_inversion", *real(workspace)), first="images")
    assert [row[0] for row in rows] == ["images", "noise", "real", "synthesised"]
    assert all(row[2] == "-" for row in rows[1:]), "there is no verifier"
    assert rows[2][1] == f"{100 * labels.count(said) / 12:.1f} %"
    quality = json.loads((workspace / "out/synthesized/quality.json").read_text())
    assert quality["images"] == 12


def test_too_few_real_images_are_refused_before_any_is_made(workspace: Path) -> None:
    """Fewer real images than made ones would be no comparison, and an error after the images costs hours."""
    with pytest.raises(ValueError, match=r"there are \d+ real images of the teacher's classes; lower --num_images"):
        call("run_deep_inversion", *real(workspace, "--num_images", "4000"))
    assert not (workspace / "out" / "synthesized").exists()
    assert not (workspace / "out" / "synthesized.incomplete").exists()
