"""`--pixel_cache`, as users give it."""

import pytest

from hf_abkd.cli import main as cli
from hf_abkd.cli import run_flags
from hf_abkd.cli.workload import from_flags

IMAGES = ["--train_files", "rows.parquet", "--train_val_split", "0.25", "--pixel_cache", "pixels"]
RUN = [*IMAGES, "--student_name_or_path", "student", "--teacher_name_or_path", "teacher", "--output_dir", "run"]
ONE_PROCESSOR = ["--image_processor_name", "teacher"]


def work_of(*words):
    _, models, data, args = run_flags.parse(run_flags.parser(), [*RUN, "--use_cpu", *words])
    return from_flags(models, data, seed=args.seed)


def test_images_of_training_and_evaluation_are_read_from_one_cache(workspace):
    """Both are shown in every epoch; what is held out by another seed is there already."""
    work = work_of(*ONE_PROCESSOR)
    for images in (work.train, work.validation):
        assert images.format["format_kwargs"]["transform"].reads_pixels
    [cache] = (workspace / "pixels").iterdir()
    written = cache.stat().st_mtime_ns
    work_of(*ONE_PROCESSOR, "--seed", "7")
    assert [cache.stat().st_mtime_ns] == [path.stat().st_mtime_ns for path in (workspace / "pixels").iterdir()]
    assert cache.stat().st_mtime_ns == written


def test_images_for_two_processors_lie_in_caches_of_their_own(workspace):
    """A teacher and a student of different sizes share images in training, and have their own in evaluations."""
    work = work_of()
    for images in (work.train, work.validation):
        assert images.format["format_kwargs"]["transform"].reads_pixels
    assert sorted(work.validation[0]) == ["labels", "pixel_values", "sample_id", "teacher_pixel_values"]
    assert len(list((workspace / "pixels").iterdir())) == 2


def test_more_images_than_a_cache_was_written_for_are_refused(workspace):
    """There is nothing to show in their place."""
    work_of(*ONE_PROCESSOR, "--max_train_samples", "8", "--max_eval_samples", "4")
    with pytest.raises(ValueError, match="lacks 12 of 24 images"):
        work_of(*ONE_PROCESSOR)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--streaming", *RUN], "the pixels of a stream cannot be cached"),
        (["evaluate", "student", *IMAGES], "decodes its images: leave out --pixel_cache"),
    ],
)
def test_commands_that_cannot_use_it_say_so(workspace, capsys, words, message):
    """A flag without effect would be believed."""
    with pytest.raises(SystemExit):
        cli.main(words)
    assert message in capsys.readouterr().err
    assert not (workspace / "pixels").exists()


def test_an_examination_leaves_no_pixels_on_the_disk(workspace, capsys):
    """It is run to find out what a run would do."""
    cli.main(["doctor", *RUN, "--use_cpu"])
    assert "images" in capsys.readouterr().out
    assert not (workspace / "pixels").exists()
