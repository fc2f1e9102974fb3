"""The command line as users call it."""

import json
import re
import runpy
import shlex
import sys

import numpy as np
import pytest
import tiny
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from torch import nn
from transformers import ViTImageProcessorPil

from hf_abkd.cli import main as cli
from hf_abkd.cli import runs
from hf_abkd.cli.workload import from_flags
from hf_abkd.layers.plan import Plan
from hf_abkd.teachers.table.target_table import TargetTable
from hf_abkd.version import __version__

NAMES = ["ant", "bee", "cat", "dog"]


class Plain(nn.Module):
    """A network that is no Hugging Face model, with an activation that hooks cannot see and one that runs twice."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 4, 1)
        self.shared, self.act = nn.ReLU(), nn.GELU()

    def forward(self, images):
        maps = self.shared(self.second(self.shared(self.first(images))))
        return torch.relu(self.third(self.act(maps))).mean((2, 3))


def plain():
    return Plain()


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A teacher and a student on the disk, a data set, and a current folder of the user's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for name, model in (("teacher", tiny.resnet(8, seed=1)), ("student", tiny.vit())):
        model.config.id2label, model.config.label2id = dict(enumerate(NAMES)), {n: i for i, n in enumerate(NAMES)}
        model.save_pretrained(name)
    ViTImageProcessorPil(size={"height": 24, "width": 24}).save_pretrained("teacher")
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained("student")
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 20, 3), dtype=np.uint8)
    rows = {"image": [PILImage.fromarray(one) for one in pixels], "label": [row % 4 for row in range(24)]}
    features = Features({"image": Image(), "label": ClassLabel(names=NAMES)})
    Dataset.from_dict(rows, features=features).to_parquet("rows.parquet")
    return tmp_path


RUN = [
    *("--teacher_name_or_path", "teacher", "--student_name_or_path", "student", "--train_files", "rows.parquet"),
    *("--validation_files", "rows.parquet", "--use_cpu", "--per_device_train_batch_size", "4"),
]


# ---- inspect ----


def test_one_model_is_shown_with_what_can_be_captured(workspace, capsys):
    """The names in this table are what a user types next."""
    assert cli.main(["inspect", "teacher"]) == 0
    shown = capsys.readouterr().out
    assert "model teacher: ResNetForImageClassification" in shown
    assert "3 channels, 24x24 pixels (image processor)" in shown
    row = next(line for line in shown.splitlines() if "resnet.encoder.stages.1.layers.0.activation" in line)
    assert row.split() == ["resnet.encoder.stages.1.layers.0.activation", "ReLU", "NCHW", "3x3", "32", row.split()[-1]]
    assert re.fullmatch(r"\d+%", row.split()[-1])
    assert max(map(len, shown.splitlines())) <= 100


def test_two_models_are_paired_as_in_training(workspace, capsys):
    """A plan that training would not take is worse than none: it is built by the same code, connectors included."""
    assert cli.main(["inspect", "student", "--teacher", "teacher", "--plan", "plan.yaml"]) == 0
    shown = capsys.readouterr().out
    assert "student student: ViTForImageClassification" in shown and "teacher teacher: ResNet" in shown
    assert "2 pairs of layers, 864 parameters to connect them" in shown
    assert "1x1 convolution + BatchNorm, 2x2 to 6x6, 288 parameters, weight 1" in shown
    assert "labels: teacher and student have the same 4 classes in the same order" in shown
    plan = Plan.load("plan.yaml")
    assert [pair.teacher.layer.split(".")[3] for pair in plan.pairs] == ["0", "1"]
    assert max(map(len, shown.splitlines())) <= 100


def test_written_plan_is_taken_by_a_run(workspace, capsys):
    """The round: look, edit, train."""
    assert cli.main(["inspect", "student", "--teacher", "teacher", "--plan", "plan.yaml"]) == 0
    text = (workspace / "plan.yaml").read_text().replace("weight: 1.0", "weight: 0.5")
    (workspace / "plan.yaml").write_text(text)
    assert cli.main(["doctor", *RUN, "--plan", "plan.yaml"]) == 0
    assert capsys.readouterr().out.count("weight 0.5") == 2


def test_model_of_a_factory_is_shown_with_what_cannot_be_paired(workspace, capsys, monkeypatch):
    """Why a layer is missing from the plan is the question that the plan cannot answer."""
    (workspace / "mine_for_test.py").write_text("import test_main\n\n\ndef make():\n    return test_main.plain()\n")
    monkeypatch.setitem(sys.modules, "test_cli", sys.modules[__name__])
    assert cli.main(["inspect", "mine_for_test:make", "--image_size", "16", "32"]) == 0
    shown = capsys.readouterr().out
    assert "model mine_for_test:make: Plain, 844 parameters" in shown and "16x32 pixels (--image_size)" in shown
    assert "not paired, runs 2 times in one forward pass: shared" in shown
    assert "not seen by hooks, calls of relu in: the model itself (name third:output)" in shown
    assert re.search(r"act +GELU +NCHW +4x8 +8", shown)


def test_student_without_a_processor_gets_the_teachers_images(workspace, capsys):
    """As in training; a plan for images of another size would be another plan."""
    tiny.resnet(4, seed=3).config.save_pretrained("fresh")
    assert cli.main(["inspect", "fresh", "--teacher", "teacher"]) == 0
    assert capsys.readouterr().out.count("24x24 pixels (image processor)") == 2


def test_config_alone_is_enough(workspace, capsys):
    """A student that starts from random weights is looked at before it exists."""
    (workspace / "student" / "model.safetensors").unlink()
    assert cli.main(["inspect", "student/config.json"]) == 0
    assert "16x16 pixels (config.image_size)" in capsys.readouterr().out


def test_long_stage_is_cut_in_its_middle_unless_all_is_asked_for(workspace, capsys, monkeypatch):
    """A ResNet-152 has 150 activations; the first and the last of a stage are what users look for."""
    monkeypatch.setattr(cli, "_MOST_ROWS", 2)
    student = tiny.resnet(4, seed=3)
    student.config.depths = [9, 1]
    student.config.save_pretrained("deep")
    assert cli.main(["inspect", "deep"]) == 0
    cut = capsys.readouterr().out
    hidden = int(re.search(r"\.\.\. (\d+) more on this grid \(--all\)", cut).group(1))
    assert cli.main(["inspect", "deep", "--all"]) == 0
    every = capsys.readouterr().out
    assert "more on this grid" not in every
    assert len(every.splitlines()) == len(cut.splitlines()) + hidden - 1
    last = [line for line in every.splitlines() if "stages.0.layers.8.activation" in line]
    assert len(last) == 1 and last[0] in cut


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["absent/absent/absent"], 2, "no such file or folder"),
        (["student", "--plan", "plan.yaml"], 2, "--plan needs --teacher"),
        (["student", "--image_size", "1", "2", "3"], 2, "one or two positive numbers"),
        (["student", "--image_size", "20"], 2, "doesn't match model"),
    ],
)
def test_mistakes_are_one_line_without_a_traceback(workspace, capsys, words, status, message):
    """A page of Python hides what is wrong."""
    with pytest.raises(SystemExit) as end:
        cli.main(["inspect", *words])
    shown = capsys.readouterr().err
    assert end.value.code == status and message in shown and "Traceback" not in shown


# ---- doctor ----


def test_doctor_takes_the_flags_of_a_run_and_ends_with_a_count(workspace, capsys):
    """Whoever has a command for training has one for the doctor."""
    assert cli.main(["doctor", *RUN, "--num_train_epochs", "3", "--crop_padding", "2", "--compare"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok      run: ViTForImageClassification")
    assert any(line.startswith("warning teacher: accuracy") for line in lines)
    assert re.fullmatch(r"0 errors, \d warnings?, \d notes?", lines[-1])
    assert any("one view of 24x24 pixels for both models" in line for line in lines)
    assert not (workspace / "trainer_output").exists()


def test_doctor_writes_its_findings_as_json_and_fails_on_an_error(workspace, capsys):
    """A script decides by the exit status, and shows what was found."""
    words = ["--student_layers", "vit.layer.0", "--teacher_layers", "resnet.encoder.stages.0", "--json", "found.json"]
    assert cli.main(["doctor", *RUN, *words]) == 1
    written = json.loads((workspace / "found.json").read_text())
    assert written["status"] == "error"
    assert [one["check"] for one in written["findings"] if one["level"] == "error"] == ["run"]
    shown = capsys.readouterr().out
    assert all(one["message"].split("\n")[0][:40] in shown for one in written["findings"])
    assert shown.splitlines()[-1].startswith("1 error, ")


def test_doctor_needs_no_launcher_where_several_gpus_are_visible(workspace, monkeypatch):
    """The trainer refuses several GPUs without a launcher; one is enough to examine a run."""
    seen = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    monkeypatch.setattr(
        cli.doctor, "examine_flags", lambda *_: seen.append(cli.os.environ["CUDA_VISIBLE_DEVICES"]) or []
    )
    assert cli.main(["doctor", *RUN]) == 0
    assert seen == ["3"]


def test_unknown_flag_of_the_doctor_is_named(workspace, capsys):
    """A flag that is passed over would not be examined."""
    with pytest.raises(SystemExit) as end:
        cli.main(["doctor", *RUN, "--temprature", "2"])
    assert end.value.code == 2 and "--temprature" in capsys.readouterr().err


# ---- Both ----


def test_module_is_run_like_the_script(monkeypatch, capsys):
    """`python -m hf_abkd` works where scripts are not on the path."""
    monkeypatch.setattr(sys, "argv", ["hf_abkd", "--version"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("hf_abkd", run_name="__main__")
    assert end.value.code == 0 and capsys.readouterr().out.strip() == __version__


# ---- cache ----


CACHE = ["cache", "--teacher", "teacher", "--train_files", "rows.parquet"]
VIEWS = ["--views", "2", "--crop_padding", "2", "--flip", "--batch_size", "7"]


def test_a_cache_is_written_checked_and_trained_from(workspace, capsys):
    """The whole way of a user: store, move the teacher away, train with the flag that is printed."""
    assert cli.main([*CACHE, "--output_dir", "my caches/one", *VIEWS]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert "24 images, 2 views each" in shown[0] and "my caches/one" in shown[0]
    assert any(line.startswith("  logits: logits 4, 8 bytes") for line in shown)
    assert any(re.search(r"stages.1.*activation:input: bits 32x3x3, 36 bytes", line) for line in shown)
    assert any(line.startswith("the teacher is right on ") and "25.0% of them" in line for line in shown)
    assert "verified on 16 samples, every view, against the live teacher:" in shown
    assert any(re.search(r"activation:input: bits on the other side 0 of 9,216", line) for line in shown)
    assert shown[-1] == "Train from it with --teacher_name_or_path 'my caches/one' --crop_padding 2 --flip"
    card = (workspace / "my caches" / "one" / "README.md").read_text()
    assert "rows.parquet" in card and "2 views" in card and "RandomCrop(padding=2)" in card
    (workspace / "teacher").rename(workspace / "elsewhere")
    words = shlex.split(shown[-1].removeprefix("Train from it with "))
    words += ["--student_name_or_path", "student", "--train_files", "rows.parquet", "--validation_files"]
    words += ["rows.parquet", "--output_dir", "run", "--use_cpu", "--max_steps", "4", "--report_to", "none"]
    run, models, data, args = runs.parse(runs.parser(), words)
    runs.stages_of("ab", run)
    work = from_flags(models, data, seed=args.seed)
    assert work.teacher.reference["name_or_path"] == "teacher" and work.processor.size["height"] == 16
    trainer = runs.make_trainer(work.make_student(), work, args, run, runs.stages_of(runs.method_of(run, work), run))
    trainer.train()
    assert trainer.state.global_step == 4
    assert 0 <= trainer.evaluate()["eval_accuracy"] <= 1


def test_a_complete_cache_is_only_verified(workspace, capsys):
    """A second call must neither overwrite a day of work nor say nothing."""
    folder = ["--output_dir", "stored"]
    assert cli.main([*CACHE, *folder, *VIEWS, "--verify", "0"]) == 0
    assert "verified" not in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in (workspace / "stored").rglob("*")}
    with pytest.raises(SystemExit) as end:
        cli.main([*CACHE, *folder, *VIEWS])
    message = capsys.readouterr().err
    assert end.value.code == 2
    assert "hf-abkd cache: stored holds a cache that is complete" in message and "--verify 16" in message
    assert cli.main([*CACHE, *folder, *VIEWS, "--verify", "5"]) == 0
    assert "verified on 5 samples, every view" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (workspace / "stored").rglob("*")} == before
    for words, message in (
        (["--views", "2", "--crop_padding", "2"], "augmentation of the cached teacher"),
        ([*VIEWS, "--teacher", "student"], "was written with another teacher"),
    ):
        with pytest.raises(SystemExit) as end:
            cli.main([*CACHE, *folder, *words, "--verify", "5"])
        assert end.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "columns"),
    [
        (["--layers"], ["logits"]),
        (
            ["--layers", "resnet.encoder.stages.1", "--logits", "0"],
            ["resnet.encoder.stages.1.layers.0.activation:input"],
        ),
        (["--layers", "--logits", "2", "--features", "resnet.pooler"], ["logits", "values of resnet.pooler:output"]),
    ],
)
def test_what_is_stored_can_be_chosen(workspace, capsys, words, columns):
    """`--layers` without a name is the way to store logits alone."""
    assert cli.main([*CACHE, "--output_dir", "stored", *words]) == 0
    assert list(TargetTable.open("stored").columns) == columns
    assert capsys.readouterr().out.endswith("Train from it with --teacher_name_or_path stored\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--views", "2"], "2 views were asked for and no augmentation"),
        (["--layers", "resnet.encoder.stage"], "has no module 'resnet.encoder.stage'; close names"),
        (["--precision", "int8"], "precision must be one of"),
        (["--label_column_name", "species"], "no column 'species' (--label_column_name)"),
        (["--image_column_name", "picture"], "no column 'picture' (--image_column_name)"),
        (["--streaming"], "leave out --streaming"),
        (["--teacher", "absent/absent/absent"], "no such file or folder"),
        (["--output_dir", "student"], "student exists and is no table"),
    ],
)
def test_a_mistake_in_what_is_stored_is_one_line(workspace, capsys, words, message):
    """It is told before the teacher runs, and nothing is left behind."""
    before = sorted(path.name for path in workspace.iterdir())
    with pytest.raises(SystemExit) as end:
        cli.main([*CACHE, "--output_dir", "stored", *words])
    shown = capsys.readouterr().err
    assert end.value.code == 2 and message in shown and "Traceback" not in shown
    assert sorted(path.name for path in workspace.iterdir()) == before


def test_the_doctor_examines_a_run_from_a_cache(workspace, capsys):
    """What is examined before a run of days must be what will run, without the teacher too."""
    assert cli.main([*CACHE, "--output_dir", "stored", "--verify", "0"]) == 0
    capsys.readouterr()
    words = ["--teacher_name_or_path", "stored", "--student_name_or_path", "student", "--train_files", "rows.parquet"]
    words += ["--validation_files", "rows.parquet", "--output_dir", "run", "--use_cpu", "--report_to", "none"]
    status = cli.main(["doctor", *words])
    shown = capsys.readouterr().out
    assert "learns from what ResNetForImageClassification said, in " in shown
    assert status == 0 and "0 errors" in shown
    assert "gradients: stage 'initialization': finite and not zero" in shown
    assert cli.main(["doctor", *words, "--flip"]) == 1
    assert "the augmentation of the cached teacher is none" in capsys.readouterr().out


# ---- synthesize ----

SYNTHESIZE = ["synthesize", "--teacher", "teacher", "--output_dir", "made", "--num_images", "6", "--batch_size", "4"]
SYNTHESIZE += ["--iterations", "2"]


def test_images_are_made_of_a_teacher_and_trained_from_with_the_line_that_is_shown(workspace, capsys):
    """The whole way without data: a teacher, images out of it, a run from them."""
    assert cli.main([*SYNTHESIZE, "--verifier", "student", "--classes", "cat", "1"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("made: 6 images of 2 classes, as stored")
    assert "the verifier says it of" in shown
    assert (workspace / "made" / "previews.png").is_file()
    flags = shlex.split(shown.splitlines()[-1].partition("Train from them with ")[2])
    words = ["--teacher_name_or_path", "teacher", "--student_name_or_path", "student", *flags]
    words += ["--train_val_split", "0", "--use_cpu", "--cache_dir", str(workspace / "cache")]
    _, models, data, _ = runs.parse(runs.parser(), words)
    work = from_flags(models, data, seed=0)
    assert len(work.train) == 6
    # The same call again returns what is there.
    assert cli.main([*SYNTHESIZE, "--verifier", "student", "--classes", "cat", "1"]) == 0
    assert capsys.readouterr().out == shown


def test_settings_of_a_preset_are_changed_one_by_one(workspace):
    """A flag that is dropped costs the hours of a run that was to be another."""
    flags = ["--preset", "imagenet", "--coarse_iterations", "1", "--flip", "False", "--tv_weight", "0.5"]
    flags += ["--warmup_iterations", "1"]
    cli.main([*SYNTHESIZE, *flags])
    settings = json.loads((workspace / "made" / "settings.json").read_text())["settings"]
    assert settings == {
        "iterations": 2,
        "coarse_iterations": 1,
        "learning_rate": 0.25,
        "betas": [0.5, 0.9],
        "warmup_iterations": 1,
        "cosine": True,
        "feature_weight": 0.01,
        "first_feature_factor": 10.0,
        "tv_weight": 0.5,
        "l2_weight": 1e-5,
        "adaptive_weight": 0.2,
        "jitter": 30,
        "flip": False,
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset", "mnist"], "--preset is one of cifar10, imagenet; got mnist"),
        (["--classes", "emu"], "no class 'emu'; it has 4: 0 ant, 1 bee, 2 cat, 3 dog"),
        (["--num_images", "0"], "num_images must be at least 1"),
        (["--tv_weight", "-1"], "tv_weight must be a number, 0 or more"),
        (["--teacher", "student"], "ViTForImageClassification holds no statistics"),
    ],
)
def test_mistakes_in_what_is_to_be_made_are_one_line(workspace, capsys, words, message):
    """They come before the first step, and leave no folder."""
    with pytest.raises(SystemExit) as end:
        cli.main([*SYNTHESIZE, *words])
    shown = capsys.readouterr().err
    assert end.value.code == 2 and message in shown and "Traceback" not in shown
    assert not list(workspace.glob("made*"))


def test_several_processes_are_told_how_to_share_the_work(workspace, capsys, monkeypatch):
    """They would all write the same files."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        cli.main(SYNTHESIZE)
    assert "synthesize runs in one process" in capsys.readouterr().err
