"""Measurement: what a run came to, from answers that were kept, beside what student and teacher cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hf_abkd.models.machine import this_machine
from hf_abkd.reports.evaluation import START, Evaluation, ModelEvaluation
from hf_abkd.reports.given_answers import GivenAnswers
from hf_abkd.reports.judging import against, agreement_of_answers, judged
from hf_abkd.training.measuring.run_costs import RunCosts
from hf_abkd.wording import public_name


@dataclass(frozen=True, eq=False)
class MeasuredRun:
    """What was measured of a run, which other runs may be compared with.

    Attributes:
        evaluation: What was measured; its student is the first model.
        answers: What the student said of the evaluation images; None if there are none, or it is not known any more.
    """

    evaluation: Evaluation
    answers: GivenAnswers | None

    def as_baseline(self, teacher: GivenAnswers | None) -> ModelEvaluation:
        """Return its student as another run tells it: without times, which were not taken in turns with that run's.

        Args:
            teacher: What the teacher of the other run said of the same images.
        """
        agreed = None if self.answers is None or teacher is None else agreement_of_answers(self.answers, teacher)
        return replace(self.evaluation.models[0], role="baseline", latencies=(), agreement=agreed)


@dataclass(frozen=True, eq=False)
class RunAnswers:
    """What was said of the evaluation images of a run; None where nobody was asked, or there are no such images.

    Attributes:
        after: What the student said after the run.
        before: What it said before the first step.
        teacher: What its teacher said, in the student's classes.
    """

    after: GivenAnswers | None = None
    before: GivenAnswers | None = None
    teacher: GivenAnswers | None = None


def evaluation_of_run(
    said: RunAnswers,
    costs: Sequence[RunCosts],
    class_names: Sequence[str],
    *,
    images: str,
    student: str,
    teacher: str,
    baselines: Sequence[MeasuredRun] = (),
) -> Evaluation:
    """Return what a run came to: its student before and after, beside its teacher and other runs.

    Args:
        said: What was said of the evaluation images.
        costs: What the student costs, and behind it the teacher.
        class_names: The names of the student's classes.
        images: What the images are called.
        student: What the student is called.
        teacher: What the teacher is called.
        baselines: Other runs; those that were measured on other images are left out.
    """
    after = said.after
    taught = _of_images_of(after, said.teacher)
    others = [(_described("teacher", teacher, cost, class_names, taught), taught) for cost in costs[1:]]
    before = _of_images_of(after, said.before)
    if before is not None:
        others.append((_described(START, student, RunCosts(costs[0].parameters), class_names, before, taught), before))
    for one in baselines:
        answers = _of_images_of(after, one.answers)
        if answers is not None:
            others.append((one.as_baseline(taught), answers))
    compared = [
        against(model.role, model.name, after.labels, after.right, answers.right)
        for model, answers in others
        if after is not None and answers is not None
    ]
    known = [] if after is None else class_names
    counts = [] if after is None else np.bincount(after.labels, minlength=len(known)).tolist()
    times = any(cost.latencies for cost in costs)
    return Evaluation(
        public_name(images),
        sum(counts),
        known,
        counts,
        [_described("student", student, costs[0], class_names, after, taught), *(model for model, _ in others)],
        compared,
        machine=this_machine() if times else None,
    )


def _of_images_of(after: GivenAnswers | None, answers: GivenAnswers | None) -> GivenAnswers | None:
    """Return answers if they are of the images that the student was asked about in the end, else None."""
    if after is None or answers is None or not answers.are_of_the_images_of(after):
        return None
    return answers


def _described(
    role: str,
    name: str,
    cost: RunCosts,
    class_names: Sequence[str],
    answers: GivenAnswers | None,
    teacher: GivenAnswers | None = None,
) -> ModelEvaluation:
    told = {} if answers is None else judged(answers.labels, answers.right, answers.confidences, len(class_names))
    agreed = None if answers is None or teacher is None else agreement_of_answers(answers, teacher)
    return ModelEvaluation(role, name, **vars(cost), **told, agreement=agreed)
