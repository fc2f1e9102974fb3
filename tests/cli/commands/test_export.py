"""`hf-abkd export`, as users call it."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageClassification

from hf_abkd.cli import main as cli
from hf_abkd.export import form

IMAGES = ["--validation_files", "rows.parquet"]


@pytest.mark.usefixtures("workspace")
def test_a_student_is_exported_and_measured(capsys):
    """What is shipped is measured on the images that it is for, beside what it was."""
    assert cli.main(["export", "student", "--output_dir", "shipped", "--dtype", "bf16", *IMAGES]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "shipped: the student as safetensors bf16"
    assert lines[3].startswith("| student, torch fp32 | ") and lines[4].startswith("| safetensors bf16 | ")
    assert "Accuracies are those on 24 images." in lines
    assert AutoModelForImageClassification.from_pretrained("shipped").dtype == torch.bfloat16
    assert json.loads(Path("shipped", "export.json").read_text())["evaluated_on"] == 24


@pytest.mark.usefixtures("workspace")
def test_training_flags_hold_out_what_the_run_held_out(capsys):
    """Accuracy on what a student was trained on is none."""
    flags = ["--train_files", "rows.parquet", "--train_val_split", "0.5"]
    assert cli.main(["export", "student", "--output_dir", "shipped", *flags]) == 0
    assert "Accuracies are those on 12 images." in capsys.readouterr().out
    assert cli.main(["export", "student", "--output_dir", "other", *flags[:2], "--train_val_split", "0"]) == 0
    assert "Accuracy was not measured" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["student"], "--output_dir"),
        (["student", "--output_dir", "student"], "the output folder student is there and not empty"),
        (["./absent", "--output_dir", "new"], "absent"),
        (["student", "--output_dir", "new", "--format", "gguf"], "not as 'gguf': what reads GGUF"),
        (["student", "--output_dir", "new", "--quantize", "int8"], "quantize=int8 is of the format onnx"),
        (["student", "--output_dir", "new", "--format", "onnx"], "pip install 'hf_abkd[onnx]'"),
        (["student", "--output_dir", "new", "--format", "onnx", "--quantize", "int8", *IMAGES], "--train_files"),
        (["student", "--output_dir", "new", "--train_files", "rows.parquet", "--streaming"], "leave out --streaming"),
        (
            ["student", "--output_dir", "new", "--train_files", "rows.parquet", "--reduced_decoding"],
            "at in full: leave",
        ),
    ],
)
def test_mistakes_are_told_in_a_line(workspace, monkeypatch, words, told, capsys):
    """Nothing is written before all words are understood."""
    monkeypatch.setattr(form, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as end:
        cli.main(["export", *words])
    shown = capsys.readouterr().err
    assert end.value.code == 2 and told in shown and shown.count("\n") == 1
    assert not Path("new").exists()
