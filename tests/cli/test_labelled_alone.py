"""The student alone beside methods that also learn from images without labels."""

import dataclasses

import pytest
import tiny
from datasets import concatenate_datasets

from hf_abkd.cli import run_flags, runs
from hf_abkd.cli.labelled_alone import labelled_alone
from hf_abkd.cli.workload import Workload
from hf_abkd.data.arguments import DataArguments


class Missing(tiny._Reshape):
    """Prepares rows of which some have no label."""

    def __call__(self, rows):
        prepared = super().__call__(rows)
        return {**prepared, "labels": [-100 if label is None else label for label in prepared["labels"]]}


def work():
    """Six images with labels, and 20 without behind them."""
    data = tiny.images(26).with_format(None)
    unlabelled = data.select(range(6, 26)).remove_columns("labels")
    unlabelled = unlabelled.add_column("labels", [None] * 20, feature=data.features["labels"])
    rows = concatenate_datasets([data.select(range(6)), unlabelled]).with_transform(Missing())
    return Workload(None, tiny.resnet, None, rows, tiny.images(8), "random images", unlabelled=20)


def test_alone_takes_as_many_steps_on_the_labelled_images(tmp_path):
    """Fewer steps would be an easier baseline, and an evaluation after each pass over six images hours of them."""
    args = tiny.arguments(
        tmp_path,
        max_steps=-1,
        num_train_epochs=2,
        gradient_accumulation_steps=2,
        eval_strategy="epoch",
        save_strategy="epoch",
    )
    run, data = run_flags.RunArguments(), work()
    trainers = [
        runs.make_trainer(
            tiny.resnet(4),
            made,
            dataclasses.replace(args, output_dir=str(tmp_path / method)),
            run,
            runs.stages_of(method, run),
        )
        for method, made in (("alone", data), ("kd", dataclasses.replace(data, teacher=tiny.resnet(6, seed=1))))
    ]
    for trainer in trainers:
        trainer.train()
    alone, taught = trainers
    assert len(alone.train_dataset) == 6 and len(taught.train_dataset) == 26
    # Seven batches of four, two a step.
    assert alone.state.global_step == taught.state.global_step == 8
    evaluated = [[one["step"] for one in each.state.log_history if "eval_loss" in one] for each in trainers]
    assert evaluated == [[4, 8], [4, 8]]


def test_a_run_without_unlabelled_images_is_left_as_it_is(tmp_path):
    """Epochs that were asked for must stay epochs."""
    args, plain = tiny.arguments(tmp_path), Workload(None, tiny.resnet, None, tiny.images(8), None, "random images")
    assert labelled_alone(plain, args) == (plain, args)


def test_images_that_nothing_learns_from_are_refused(capsys):
    """A flag that changes nothing looks as if it had been of no use."""
    data = DataArguments(unlabelled_dir="photos")
    for methods, message in (
        (["alone"], r"\(--method alone learns from labels only\)"),
        ([], "labels: leave out --un"),
    ):
        with pytest.raises(ValueError, match=message):
            runs.check_unlabelled(methods, data)
    runs.check_unlabelled(["kd", "ab"], data)
    assert not capsys.readouterr().out
    runs.check_unlabelled(["alone", "ab"], data)
    assert "student alone: trained on the images with labels only" in capsys.readouterr().out
    runs.check_unlabelled(["alone"], DataArguments())
