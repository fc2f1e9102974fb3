"""`hf-abkd doctor`, as users call it."""

import json
import os
import re

import pytest

from hf_abkd.cli import main as cli
from hf_abkd.cli.commands import doctor


def test_doctor_takes_the_flags_of_a_run_and_ends_with_a_count(workspace, run_flags, capsys):
    """Whoever has a command for training has one for the doctor."""
    assert cli.main(["doctor", *run_flags, "--num_train_epochs", "3", "--crop_padding", "2", "--compare"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok      run: ViTForImageClassification")
    assert any(line.startswith("note    teacher: accuracy") for line in lines)
    assert re.fullmatch(r"0 errors, \d warnings?, \d notes?", lines[-1])
    assert any("one view of 24x24 pixels for both models" in line for line in lines)
    assert not (workspace / "trainer_output").exists()


def test_doctor_writes_its_findings_as_json_and_fails_on_an_error(workspace, run_flags, capsys):
    """A script decides by the exit status, and shows what was found."""
    words = ["--student_layers", "vit.layer.0", "--teacher_layers", "resnet.encoder.stages.0", "--json", "found.json"]
    assert cli.main(["doctor", *run_flags, *words]) == 1
    written = json.loads((workspace / "found.json").read_text())
    assert written["status"] == "error"
    assert [one["check"] for one in written["findings"] if one["level"] == "error"] == ["run"]
    shown = capsys.readouterr().out
    assert all(one["message"].split("\n")[0][:40] in shown for one in written["findings"])
    assert shown.splitlines()[-1].startswith("1 error, ")


def test_doctor_needs_no_launcher_where_several_gpus_are_visible(workspace, run_flags, monkeypatch):
    """The trainer refuses several GPUs without a launcher; one is enough to examine a run."""
    seen = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    monkeypatch.setattr(doctor, "examine_run", lambda _: seen.append(os.environ["CUDA_VISIBLE_DEVICES"]) or [])
    assert cli.main(["doctor", *run_flags]) == 0
    assert seen == ["3"]


def test_unknown_flag_of_the_doctor_is_named(workspace, run_flags, capsys):
    """A flag that is passed over would not be examined."""
    with pytest.raises(SystemExit) as end:
        cli.main(["doctor", *run_flags, "--temprature", "2"])
    assert end.value.code == 2 and "--temprature" in capsys.readouterr().err


RECIPE = """
method: knowledge_distillation
teacher: {model: teacher}
student: {model: student}
data: {train_files: [rows.parquet], validation_files: [rows.parquet]}
training: {output_dir: out, use_cpu: true, per_device_train_batch_size: 4}
"""


def test_doctor_takes_a_recipe_and_what_is_to_be_otherwise(workspace, capsys):
    """Whoever writes recipes has one command before and one for training; a copy of it in flags may differ."""
    (workspace / "mine.yaml").write_text(RECIPE)
    words = ["mine.yaml", "training.learning_rate=0", "--json", "found.json"]
    assert cli.main(["doctor", *words]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok      run: ") and any("learning rate" in line for line in lines)
    assert json.loads((workspace / "found.json").read_text())["status"] == "error"
    assert not (workspace / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["knowledge_distillation"], "leaves open what it runs on: student.model, training.output_dir, teacher.model"),
        (["mine.yaml", "data.train_files=null", "data.synthesize={num_images: 4}"], "hf-abkd synthesize"),
        (["none.yaml"], "there is no file none.yaml"),
        ([], "a recipe .* or the flags of a run"),
    ],
)
def test_what_no_doctor_can_examine_is_told(workspace, words, message, capsys):
    """An examination of something else would be taken for one of the run."""
    (workspace / "mine.yaml").write_text(RECIPE)
    with pytest.raises(SystemExit) as end:
        cli.main(["doctor", *words])
    assert end.value.code == 2 and re.search(message, capsys.readouterr().err)
