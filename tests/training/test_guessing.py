"""A student that guesses is said loudly."""

import logging

import numpy as np
import pytest
import tiny
from tiny_runs import accuracy
from transformers.trainer_utils import EvalLoopOutput

from hf_abkd import DistillationTrainer
from hf_abkd.models.tasks.image_classification import IMAGE_CLASSIFICATION
from hf_abkd.training.guessing import Guessing


def warned(caplog, scores, *, step=None, counts=(40, 30, 30), prefix="eval"):
    guessing = Guessing(IMAGE_CLASSIFICATION)
    labels = np.repeat(np.arange(len(counts)), counts)
    guessing.see(EvalLoopOutput(None, labels, {f"{prefix}_accuracy": 0.0}, len(labels)), prefix)
    log = [{f"{prefix}_accuracy": score, "step": index} for index, score in enumerate(scores)]
    guessing.warn(log, step)
    return caplog.text


@pytest.mark.parametrize("last", [0.0, 0.3, 0.4, 0.44])
def test_student_at_or_below_chance_is_told(caplog, last):
    """A table with 40 % in it looks like a result; where one class has 40 % of the images it is none."""
    text = warned(caplog, [0.9, last])
    assert "THE STUDENT GUESSES: its eval_accuracy is" in text and "(100 samples)" in text and "gives 0.400" in text


@pytest.mark.parametrize("last", [0.5, 1.0])
def test_student_that_learnt_is_not(caplog, last):
    """A warning that is always there is not read."""
    assert not warned(caplog, [0.1, last])


def test_what_counts_is_the_model_that_a_run_ends_with(caplog):
    """The last step may be worse than the best one, which is loaded."""
    assert not warned(caplog, [0.2, 0.9, 0.3], step=1)
    assert "THE STUDENT GUESSES" in warned(caplog, [0.2, 0.9, 0.3])


def test_each_evaluation_set_has_its_own_chance(caplog):
    """A student that guesses on the target domain has not adapted."""
    assert "its eval_target_accuracy is 0.400" in warned(caplog, [0.4], prefix="eval_target")


def test_evaluations_without_labels_say_nothing(caplog):
    """There is no accuracy that could be chance."""
    guessing = Guessing(IMAGE_CLASSIFICATION)
    guessing.see(EvalLoopOutput(None, None, {"eval_loss": 1.0}, 9), "eval")
    guessing.warn([{"eval_loss": 1.0, "step": 1}])
    assert not caplog.text


def test_a_run_that_learns_nothing_ends_with_it(tmp_path, caplog):
    """Nobody reads the third dictionary from below."""
    data = tiny.images(16)
    settings = {"max_steps": 1, "learning_rate": 1e-9, "eval_strategy": "steps", "eval_steps": 1}
    extra = {"train_dataset": data, "eval_dataset": data, "compute_metrics": accuracy}
    trainer = DistillationTrainer(tiny.resnet(4), tiny.arguments(tmp_path, **settings), **extra)
    trainer.model.classifier[1].weight.data.zero_()
    with caplog.at_level(logging.WARNING, "hf_abkd"):
        trainer.train()
    assert caplog.text.count("THE STUDENT GUESSES") == 1
