"""What the examples do when nothing is named."""

import numpy as np
import pytest
from example_runs import few_digits

from hf_abkd.cli import demonstration, run_flags


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ([], True),
        (["--seeds", "3", "--output_dir", "out"], True),
        (["--teacher_name_or_path", "t"], False),
        (["--teacher-name-or-path", "t"], False),
        (["--validation_files", "a.parquet"], False),
        (["--train_sampling_strategy", "random"], True),
        (["--route", "r"], False),
        (["--student_name_or_path=s"], False),
        (["--train_files", "a.parquet"], False),
        (["--dataset_name", "d"], False),
    ],
)
def test_naming_models_or_images_ends_the_demonstration(words, asked):
    """Digits that are trained on in the place of the user's images would not say so."""
    parser = run_flags.parser()
    assert demonstration.is_asked_for(parser, words, ("route",)) is asked
    assert parser.get_default("num_train_epochs") == (12 if asked else 3.0)


def test_help_shows_the_defaults_of_the_users_own_models_and_tells_of_the_demonstration(capsys):
    """Whoever reads that 12 epochs are the default plans with them, and gets 3."""
    parser = run_flags.parser()
    assert not demonstration.is_asked_for(parser, ["--help"], output_dir="distilled/else")
    assert parser.get_default("num_train_epochs") == 3.0
    shown = " ".join(parser.format_help().split())
    assert "Share of the run that has AB beside KD; KD alone has the rest. (default: 0.75)" in shown
    assert "--output_dir distilled/else --num_train_epochs 12" in shown and "--seeds 0 1 2" in shown


def test_the_shifted_digits_are_two_halves_of_which_the_second_is_thick(monkeypatch):
    """Images in both domains would be taught with labels that the target must not have."""
    monkeypatch.setattr(demonstration, "digits", lambda: few_digits(16, 8))
    source, target = demonstration.shifted_digits()
    every = few_digits(16, 8)
    assert (len(source.train), len(target.train)) == (8, 8)
    assert list(source.train["label"]) + list(target.train["label"]) == list(every.train["label"])
    assert [image.size for image in target.train["image"]] == [(24, 24)] * 8
    assert [image.size for image in source.train["image"]] == [(8, 8)] * 8

    def ink(image):
        return np.asarray(image).mean()

    assert all(
        ink(thick) > ink(thin) for thick, thin in zip(target.train["image"], every.train["image"][8:], strict=True)
    )
    assert target.labels == source.labels
    assert [image.size for image in target.validation["image"]] == [(24, 24)] * 8


def test_small_networks_have_the_names_of_the_classes():
    """A published demonstration that answers LABEL_3 is of no use."""
    model = demonstration.small_resnet([4, 8], [1, 1], ["zero", "one"])
    assert model.config.id2label == {0: "zero", 1: "one"}
