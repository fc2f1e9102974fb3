"""Kept answers: what the student of a run said of the evaluation images, from evaluations that the run makes anyway."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.trainer_utils import EvalLoopOutput

from hf_abkd.models.tasks.task import Task
from hf_abkd.reports.given_answers import GivenAnswers

# So many rows of logits at once: of a thousand classes and all images they would be held twice.
_ROWS = 4096


class KeptAnswers:
    """What the student of a run said of the evaluation images: before the run, and when it was last evaluated in it.

    Args:
        task: What the student does.
        start: What it said before the first step of a run that may go on.

    Attributes:
        start: What it said before the first step; None if it was not asked.
    """

    def __init__(self, task: Task, start: GivenAnswers | None = None) -> None:
        self.task = task
        self.start = start
        self._last: tuple[object, int, GivenAnswers | None] | None = None

    def see(self, output: EvalLoopOutput, student: nn.Module, step: int) -> None:
        """Keep what an evaluation of the run found.

        Args:
            output: The evaluation, on the images that are asked about.
            student: The student.
            step: How many steps were done.
        """
        self._last = student, step, self.answers_in(output)

    def at(self, student: nn.Module, step: int) -> GivenAnswers | None:
        """Return what the student said after so many steps; None if that is not the last evaluation of the run."""
        return self._last[2] if self._last is not None and self._last[:2] == (student, step) else None

    def answers_in(self, output: EvalLoopOutput) -> GivenAnswers | None:
        """Return the answers that an evaluation gathered; None if it gathered none, or has no labels."""
        if output.predictions is None or output.label_ids is None or not len(output.label_ids):
            return None
        labels, predictions = torch.as_tensor(output.label_ids), torch.as_tensor(output.predictions)
        return given_answers(self.task, predictions, labels)


def given_answers(task: Task, predictions: Tensor, labels: Tensor) -> GivenAnswers:
    """Return what predictions say of images.

    Args:
        task: What the model does that made them.
        predictions: The predictions, one for each image.
        labels: The labels, (N,).
    """
    confidences = torch.cat([task.confidences(some) for some in torch.split(predictions, _ROWS)])
    found = labels.long(), task.answers(predictions), confidences, task.right(predictions, labels)
    return GivenAnswers(*(one.cpu().numpy() for one in found))
