"""What suits a student is filled in where nobody said anything, and nowhere else."""

import pytest
import torch

from hf_abkd import CrossEntropy, DistillationArguments, Stage, Term
from hf_abkd.models.start import Start
from hf_abkd.stages.suited_arguments import SuitedArguments

FRESH, TRAINED = Start(trained=False, batch_norm=True), Start(trained=True, batch_norm=False)


def stage(**settings):
    return Stage([Term(CrossEntropy())], **settings)


def filled(folder, start=FRESH, of=None, **given):
    arguments = DistillationArguments(str(folder), use_cpu=True, per_device_train_batch_size=64, **given)
    return SuitedArguments(start).filled(arguments, of)


def test_random_and_trained_weights_get_rates_that_suit_them(tmp_path):
    """5e-5, the default of transformers, leaves random weights as they are; 5e-3 ruins trained ones."""
    fresh, trained = filled(tmp_path), filled(tmp_path, TRAINED)
    assert (fresh.learning_rate, trained.learning_rate) == (5e-3, 1e-4)
    assert {one.lr_scheduler_type.value for one in (fresh, trained)} == {"cosine"}
    assert (fresh.weight_decay, fresh.max_grad_norm, trained.warmup_steps) == (0.05, 1.0, 0.05)


def test_rate_follows_the_square_root_of_the_images_per_step(tmp_path):
    """Eight images, the default of transformers, give eight times as many noisier steps."""
    small = DistillationArguments(str(tmp_path), use_cpu=True, per_device_train_batch_size=8)
    assert SuitedArguments(FRESH).filled(small).learning_rate == pytest.approx(5e-3 / 8**0.5, rel=1e-2)
    assert filled(tmp_path, gradient_accumulation_steps=4).learning_rate == 1e-2


def test_a_given_rate_has_the_defaults_of_transformers_beside_it(tmp_path):
    """It was chosen with them: a weight decay that nobody asked for would change the run."""
    given = filled(tmp_path, learning_rate=1e-3)
    assert (given.learning_rate, given.weight_decay, given.lr_scheduler_type.value) == (1e-3, 0.0, "linear")
    assert filled(tmp_path, weight_decay=0.5).learning_rate == 5e-3
    assert filled(tmp_path, weight_decay=0.5).weight_decay == 0.5


def test_what_a_stage_suggests_gives_way_to_what_was_given(tmp_path):
    """A flag that is typed and changes nothing is worse than none."""
    suggests = stage(suggested={"lr_scheduler_type": "constant"})
    assert filled(tmp_path, of=suggests).lr_scheduler_type.value == "constant"
    assert filled(tmp_path, of=suggests, learning_rate=1.0).lr_scheduler_type.value == "constant"
    assert filled(tmp_path, of=suggests, lr_scheduler_type="linear").lr_scheduler_type.value == "linear"
    drops = stage(suggested={"lr_milestones": [0.5], "lr_gamma": 0.2})
    assert (filled(tmp_path, of=drops).lr_milestones, filled(tmp_path, of=drops).lr_gamma) == ([0.5], 0.2)
    assert filled(tmp_path, of=drops, lr_milestones=[0.9]).lr_gamma == 0.1


def test_an_optimiser_without_a_known_rate_is_refused(tmp_path):
    """The rate of AdamW is no rate for SGD or Lion, and 5e-5 is none for random weights."""
    with pytest.raises(ValueError, match="no learning rate is known .* lion.*: give --learning_rate"):
        filled(tmp_path, optim="lion_32bit")
    with pytest.raises(ValueError, match="optimiser SGD"):
        filled(tmp_path, of=stage(optimizer=(torch.optim.SGD, {"momentum": 0.9})))
    own = stage(optimizer=(torch.optim.SGD, {"lr": 0.1}))
    assert filled(tmp_path, of=own).weight_decay == 0.0


def test_one_sentence_tells_for_whom_settings_were_chosen(tmp_path):
    """A rate out of nowhere is read as that of the user."""
    suited = SuitedArguments(FRESH)
    assert "random weights and batch normalisation" in suited.reason(DistillationArguments(str(tmp_path)))
    assert suited.reason(DistillationArguments(str(tmp_path), learning_rate=1.0)).startswith("as given")
    assert SuitedArguments(FRESH, by_hand=True).reason(DistillationArguments(str(tmp_path))).startswith("as given")
