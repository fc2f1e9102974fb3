"""What is said of the method, by what was measured."""

import patients
import tiny
import torch
from tiny_runs import taught

from hf_abkd import DistillationTrainer, Hint, Stage, Term
from hf_abkd.cli.doctor.checks import CHECKS
from hf_abkd.cli.doctor.subject import Subject


def test_logits_alone_are_noted_for_random_weights_and_nothing_is_promised_for_trained_ones(tmp_path):
    """Whoever takes KD for what is best has a student that is points worse, and never learns of it."""
    assert "the recipe hint" in patients.only(patients.subject(tmp_path), "method", "ok")
    logits_alone = {"stages": [Stage(taught(), "logits")]}
    [note] = patients.found(patients.subject(tmp_path, **logits_alone), "method", "note")
    assert "random weights" in note and "--method ab" in note
    trained = tiny.resnet(4, hidden_act="silu")
    trained.train()(torch.rand(2, 3, 16, 16))  # gives the normalisation its statistics
    [note] = patients.found(patients.subject(tmp_path, student=trained, **logits_alone), "method", "note")
    assert "trained weights" in note and "--compare" in note


def test_a_run_without_a_teacher_has_no_method(tmp_path):
    """There is nothing that it could do otherwise."""
    alone = DistillationTrainer(tiny.resnet(4), tiny.arguments(tmp_path), train_dataset=tiny.images())
    assert not list(CHECKS["method"](Subject(alone)))


def test_layers_that_are_compared_by_value_are_not_taken_for_logits(tmp_path):
    """A run by hints was sent to a method that came out below it."""
    hint = [Stage([Term(Hint(), student=patients.LAYER, teacher="activation")], "hint")]
    assert not patients.found(patients.subject(tmp_path, stages=hint), "method", "note")
