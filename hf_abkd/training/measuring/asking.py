"""Asking the student of a run about the evaluation images, in a pass that changes nothing of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput

from hf_abkd.models.kept_state import evaluating, random_state_kept
from hf_abkd.reports.given_answers import GivenAnswers
from hf_abkd.training.measuring.kept_answers import KeptAnswers


def asked_student(
    trainer: Trainer, evaluate: Callable[[], EvalLoopOutput], answers: KeptAnswers
) -> GivenAnswers | None:
    """Return what the student says of images as it is now; None if they have no labels.

    Args:
        trainer: The trainer of the student.
        evaluate: Evaluates the student on the images; called in every process.
        answers: Reads the answers out of the evaluation.
    """
    with random_state_kept(), evaluating(trainer.model), _keeping_logits(trainer):
        found = answers.answers_in(evaluate())
    close_bars(trainer)
    return found


def close_bars(trainer: Trainer) -> None:
    """Have the next pass over evaluation images begin a bar of its own, and not fill that of this one again."""
    for callback in trainer.callback_handler.callbacks:
        if getattr(callback, "prediction_bar", None) is not None:
            callback.on_predict(trainer.args, trainer.state, trainer.control)


@contextmanager
def _keeping_logits(trainer: Trainer) -> Iterator[None]:
    """Have evaluations return logits, and leave the weights alone, whatever those of the run do."""
    ways = trainer.compute_metrics, trainer.preprocess_logits_for_metrics, trainer.is_in_train
    # Outside of training Trainer casts the weights themselves for `bf16_full_eval` and `fp16_full_eval`.
    trainer.compute_metrics, trainer.preprocess_logits_for_metrics, trainer.is_in_train = None, None, True
    try:
        yield
    finally:
        trainer.compute_metrics, trainer.preprocess_logits_for_metrics, trainer.is_in_train = ways
