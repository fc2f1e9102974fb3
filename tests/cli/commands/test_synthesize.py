"""`hf-abkd synthesize`, as users call it."""

import json
import shlex

import pytest

from hf_abkd.cli import main as cli
from hf_abkd.cli import run_flags
from hf_abkd.cli.workload import from_flags

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
    _, models, data, _ = run_flags.parse(run_flags.parser(), words)
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
        "bf16": False,
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset", "mnist"], "--preset is one of cifar10, imagenet; got mnist"),
        (["--classes", "emu"], "no class 'emu'; it has 4: 0 ant, 1 bee, 2 cat, 3 dog"),
        (["--num_images", "0"], "num_images must be a whole number, 1 or more, got 0"),
        (["--tv_weight", "-1"], "tv_weight must be finite and not negative"),
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
