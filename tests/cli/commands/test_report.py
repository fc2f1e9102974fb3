"""`hf-abkd report`, as users call it: on the folders that finished runs leave."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoModelForImageClassification

from hf_abkd.cli import main as cli
from hf_abkd.cli.commands import report as command
from hf_abkd.cli.side_by_side import comparison_table, joined
from hf_abkd.layers.plan import Plan


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A comparison of two methods over two seeds."""
    monkeypatch.chdir(tmp_path)
    for method, name, better in (("alone", "student alone", 0.0), ("kd", "KD", 0.1)):
        for seed in (0, 1):
            log = [{"loss": 1.0 / step, name: 1.0 / step, "step": step} for step in (1, 2, 3)]
            log.append({"eval_accuracy": 0.7 + better + seed / 100, "step": 3})
            folder = tmp_path / "runs" / f"{method}-seed{seed}"
            folder.mkdir(parents=True)
            content = {"model": name, "seed": seed, "parameters": 1234, "log": log, "measured": {}}
            (folder / "outcome.json").write_text(json.dumps(content))


@pytest.mark.usefixtures("runs")
def test_a_page_with_the_table_and_its_pictures_is_written(tmp_path, capsys):
    """A number that differs from that of `hf-abkd compare` makes both worthless."""
    assert cli.main(["report", str(tmp_path / "runs"), "--output_dir", "out/page"]) == 0
    pictures = sorted(path.name for path in Path("out/page").glob("*.png"))
    assert capsys.readouterr().out == (
        f"out/page/report.html, with {len(pictures)} pictures that also lie beside it as PNG files.\n"
    )
    assert pictures == ["accuracy.png", "kd-1.png", "loss-0.png", "loss-1.png", "student-alone-0.png"]
    page = Path("out/page/report.html").read_text(encoding="utf-8")
    _, rows = comparison_table([run.outcome for run in joined([Path("runs")])], "student alone")
    assert all(cell in page for row in rows for cell in row)
    assert "difference to student alone" in page and page.count("<svg") == len(pictures)
    assert str(tmp_path) not in page and "http" not in page
    # What is not there is looked for.
    assert "No images were named" in page


def test_with_images_the_students_of_the_runs_are_asked_about_them(workspace, capsys):
    """Numbers of a log do not show what a student confuses, nor which of its units are dead."""
    for label, (method, name) in enumerate((("alone", "student alone"), ("ab", "AB"))):
        folder = workspace / "runs" / f"{method}-seed0"
        shutil.copytree(workspace / "student", folder)
        student = AutoModelForImageClassification.from_pretrained(folder)
        # Each says one class of all images, and the teacher another one than one of the two.
        student.classifier.bias.data[label] += 100
        student.save_pretrained(folder)
        content = {"model": name, "seed": 0, "parameters": 1234, "log": [{"eval_accuracy": 0.5, "step": 3}]}
        (folder / "outcome.json").write_text(json.dumps(content))
    pairs = [("vit.layers.1.mlp.activation_fn", "resnet.encoder.stages.1")]
    Plan.of_names(pairs).save(workspace / "runs" / "ab-seed0" / "distillation_plan.yaml")
    flags = ["--validation_files", "rows.parquet", "--teacher", "teacher", "--batch_size", "7"]
    assert cli.main(["report", "runs", *flags]) == 0
    page = Path("report/report.html").read_text(encoding="utf-8")
    assert "of 24 images" in page and page.count("data:image/png") in (12, 24) and "Measured on 24 images" in page
    pictures = {path.name for path in Path("report").glob("*.png")}
    assert {"classes-0.png", "classes-1.png", "margins-0.png"} < pictures
    assert str(workspace) not in page and "http" not in page


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["absent"], "there is no folder absent"),
        (["empty"], "empty holds no finished run"),
        (["runs", "--against", "KDD"], "did you mean 'KD'?"),
        ([], "--runs"),
        (["runs", "--teacher", "teacher"], "name them, as by --validation_files"),
        (["runs", "--batch_size", "0"], "--batch_size must be at least 1"),
        (["runs", "--validation_files", "absent.parquet"], "runs/kd-seed1 hold no weights any more"),
        (["runs", "--output_dir", "runs/kd-seed0/outcome.json"], "runs/kd-seed0/outcome.json"),
    ],
)
def test_mistakes_are_told_in_a_line_and_nothing_is_written(words, told, capsys):
    """Half a report looks like a whole one."""
    Path("empty").mkdir()
    with pytest.raises(SystemExit) as end:
        cli.main(["report", *words])
    shown = capsys.readouterr().err
    assert end.value.code == 2 and told in shown and shown.count("\n") == 1 and not Path("report").exists()


@pytest.mark.usefixtures("runs")
def test_without_matplotlib_the_extra_is_named_before_anything_is_read(monkeypatch, capsys):
    """An ImportError from the middle of a library does not tell what to install."""
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as end:
        cli.main(["report", "absent"])
    assert end.value.code == 2 and "pip install 'hf_abkd[report]'" in capsys.readouterr().err
