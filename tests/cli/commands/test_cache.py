"""`hf-abkd cache`, as users call it."""

import re
import shlex
from dataclasses import replace

import numpy as np
import pytest

from hf_abkd.cli import main as cli
from hf_abkd.cli import run_flags, runs
from hf_abkd.cli.workload import from_flags
from hf_abkd.data.table.target_table import TargetTable

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
    run, models, data, args = run_flags.parse(run_flags.parser(), words)
    runs.stages_of("ab", run)
    work = from_flags(models, data, seed=args.seed)
    assert work.teacher.reference["name_or_path"] == "teacher" and work.processor.size["height"] == 16
    trainer = runs.make_trainer(work.make_student(), work, args, run, runs.stages_of("ab", run))
    trainer.train()
    assert trainer.state.global_step == 4
    assert 0 <= trainer.evaluate()["eval_accuracy"] <= 1
    # Its images are made for both processors, which a student without a teacher is compared on, too.
    alone = runs.make_trainer(work.make_student(), work, args, run, None)
    seen = [one.sample_batch().student["pixel_values"] for one in (trainer, alone)]
    assert seen[0].shape == seen[1].shape and seen[1].is_floating_point()


def test_a_complete_cache_is_only_verified(workspace, capsys):
    """A second call must neither overwrite a day of work nor stop where the first was killed: while it verified."""
    folder = ["--output_dir", "stored"]
    assert cli.main([*CACHE, *folder, *VIEWS, "--verify", "0"]) == 0
    assert "verified" not in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in (workspace / "stored").rglob("*")}
    assert cli.main([*CACHE, *folder, *VIEWS]) == 0
    assert "verified on 16 samples, every view" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        cli.main([*CACHE, *folder, *VIEWS, "--seed", "1"])
    assert end.value.code == 2
    assert "stored holds a complete cache of something else" in capsys.readouterr().err
    assert cli.main([*CACHE, *folder, *VIEWS, "--verify", "5"]) == 0
    assert "verified on 5 samples, every view" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (workspace / "stored").rglob("*")} == before
    for words, message in (
        (["--views", "2", "--crop_padding", "2"], "augmentation of the cached teacher"),
        ([*VIEWS, "--teacher", "student"], "was written with another teacher"),
        ([*VIEWS, "--reduced_decoding"], "were decoded in full"),
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


def test_a_part_of_the_rows_is_the_part_that_a_run_with_the_same_flags_trains_on(workspace):
    """A cache of other rows is refused in the first step of the run that it was made for."""
    part = ["--train_files", "rows.parquet", "--max_train_samples", "8", "--train_val_split", "0.5", "--seed", "7"]
    assert cli.main([*CACHE, *part, "--output_dir", "stored", "--layers", "--verify", "0"]) == 0
    words = [*part, "--teacher_name_or_path", "stored", "--student_name_or_path", "student", "--output_dir", "run"]
    _, models, data, args = run_flags.parse(run_flags.parser(), [*words, "--use_cpu"])
    ids = np.array([row["sample_id"] for row in from_flags(models, data, seed=args.seed).train])
    assert len(ids) == 8 and len(TargetTable.open("stored").rows(ids, 0)) == 8


def test_images_are_kept_with_the_targets_and_read_by_runs(workspace, capsys):
    """What is told of the disk is what it takes, and a run needs no flag to read them."""
    words = ["--output_dir", "kept", *VIEWS, "--images"]
    assert cli.main([*CACHE, *words]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"  the pixels of 24 different images: 4\d\.\d kB", shown[1])
    flags = ["--teacher_name_or_path", "kept", "--student_name_or_path", "student", "--train_files", "rows.parquet"]
    split = ["--train_val_split", "0.25", "--output_dir", "run", "--use_cpu"]
    _, models, data, args = run_flags.parse(run_flags.parser(), [*flags, *split])
    work = from_flags(models, data, seed=args.seed)
    assert work.train.format["format_kwargs"]["transform"].reads_pixels
    assert not work.validation.format["format_kwargs"]["transform"].reads_pixels
    with pytest.raises(ValueError, match="kept were decoded in full, .*: leave out --reduced_decoding"):
        from_flags(models, replace(data, reduced_decoding=True), seed=args.seed)
    with pytest.raises(SystemExit):
        cli.main([*CACHE, "--output_dir", "other", "--pixel_cache", "pixels"])
    assert "give --images in the place of --pixel_cache" in capsys.readouterr().err
