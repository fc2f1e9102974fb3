"""Evaluation: how good the student is, how far it agrees with the teacher, and how good the teacher is."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers.trainer_utils import EvalLoopOutput

from hf_abkd.data.batch import Batch, BatchReader
from hf_abkd.models.kept_state import evaluating
from hf_abkd.models.label_spaces import LabelMatch
from hf_abkd.models.outputs import LOGITS
from hf_abkd.models.tasks.task import NO_LABEL, Task
from hf_abkd.reports.given_answers import GivenAnswers
from hf_abkd.teachers.chance import is_near_chance
from hf_abkd.teachers.class_order import check_order
from hf_abkd.teachers.route.divergence import divergence
from hf_abkd.teachers.source import TeacherSource, Wanted
from hf_abkd.training.classes import RunClasses
from hf_abkd.training.data_checks import first_dataset
from hf_abkd.training.live_view import DisagreeingImages
from hf_abkd.training.missing_labels import check_none_missing, refuse_missing
from hf_abkd.training.setup import Setup
from hf_abkd.training.terms.distiller import Distiller
from hf_abkd.training.wiring.wiring import teacher_names

logger = logging.getLogger(__name__)

#: Gives the batches of a data set, on the device.
Loader = Callable[[Any], Iterable[Mapping[str, Any]]]
_LOGITS_ALONE = Wanted(values=frozenset({LOGITS}))


class Evaluation:
    """Evaluates a student and its teacher, in every process alike.

    Args:
        task: What the models do.
        source: What teaches the student.
        reader: Makes a batch of what the data loader gives.
        accelerator: For autocast, and to gather over processes.
        classes: Which classes of the teacher are the student's.
    """

    def __init__(
        self, task: Task, source: TeacherSource, reader: BatchReader, accelerator: Accelerator, classes: RunClasses
    ) -> None:
        self.task = task
        self.source = source
        self.reader = reader
        self.accelerator = accelerator
        self.classes = classes
        #: What the teacher said when `teacher_scores` last measured it, in the student's classes.
        self.taught: GivenAnswers | None = None
        self._agreement: _Agreement | None = None
        self._disagreeing: DisagreeingImages | None = None
        # How many rows without a label were seen, on the device: reading it would hold up every batch.
        self._missing = torch.zeros((), dtype=torch.long, device=accelerator.device)

    # ---- The student ----

    def outputs(self, student: nn.Module, inputs: Mapping[str, Any], *, label_smoothing: float) -> dict[str, Any]:
        """Return the `loss` () of a batch, None without labels, and its `logits` (N, K).

        Args:
            student: The student, in eval mode.
            inputs: What the data loader gives, on the device.
            label_smoothing: The label smoothing of the loss.
        """
        batch = self.reader.read(inputs)
        if self._agreement is None:
            logits = self.task.prediction(student(**batch.student), student, "student")
        else:
            logits, taught, boundaries = self._agreement.run(batch.student, self.source.targets(batch), batch.labels)
            same = self._same_class(student, logits, taught, batch)
            parts = [same[:, None], *([] if boundaries is None else [boundaries])]
            self._agreement.add(self.accelerator.gather_for_metrics(torch.cat(parts, dim=1)))
        loss = None
        if batch.labels is not None:
            loss = self.task.loss(logits, batch.labels, label_smoothing=label_smoothing)
            self._missing += (batch.labels == NO_LABEL).sum()
        return {"loss": loss, "logits": logits}

    def of_labelled(self, evaluate: Callable[[], EvalLoopOutput]) -> Callable[[], EvalLoopOutput]:
        """Return what runs an evaluation, and refuses its result if some of the rows had no label."""

        def evaluated() -> EvalLoopOutput:
            self._missing.zero_()
            output = evaluate()
            if missing := int(self.accelerator.reduce(self._missing, "sum")):
                refuse_missing(f"{missing:,} of the rows that were read")
            return output

        return evaluated

    def with_agreement(
        self,
        evaluate: Callable[[], EvalLoopOutput],
        student: nn.Module,
        setup: Setup,
        prefix: str,
        disagreeing: DisagreeingImages | None = None,
    ) -> EvalLoopOutput:
        """Evaluate with the teacher beside the student, and compare every boundary that a stage of the run names.

        Args:
            evaluate: Runs the evaluation; its metrics get the agreements.
            student: The student, not wrapped.
            setup: What the run consists of.
            prefix: That of the names of the metrics.
            disagreeing: Collects the images on which the two disagree; None collects none.
        """
        terms = [term for term in setup.terms if term.objective.boundary]
        boundaries = frozenset(teacher_names(terms))
        distiller = Distiller(student, terms, setup.wiring.student, setup.wiring.overwritten, task=self.task)
        distiller.attach().eval()
        self.source.begin(Wanted(_LOGITS_ALONE.values, boundaries))
        self._agreement, self._disagreeing = _Agreement(distiller, self.accelerator.device), disagreeing
        try:
            output = evaluate()
            output.metrics.update(self._agreement.means(prefix))
            return output
        finally:
            distiller.detach()
            self._agreement = self._disagreeing = None

    def _same_class(self, student: nn.Module, logits: Tensor, taught: Tensor, batch: Batch) -> Tensor:
        """Return 1 for each sample that both models give one class, (N,); not a number where classes differ."""
        match = self.label_match(student, taught)
        if not match.is_comparable:
            return logits.new_full((len(logits),), math.nan)
        taught = match.teacher_in_student_space(taught)
        if self._disagreeing is not None:
            self._disagreeing.add(batch.student[batch.images], logits, taught, batch.labels)
        return self.task.agreement(logits, taught).float()

    # ---- The teacher ----

    def label_match(self, student: Any, teacher_logits: Tensor) -> LabelMatch:
        """Return which classes of the live teacher are the student's.

        Raises:
            RuntimeError: If there is no live teacher.
        """
        if self.source.model is None:
            raise RuntimeError("there is no teacher")
        return self.classes.match(student, self.task.classes(student.config), teacher_logits.shape[1])

    def label_match_on(self, student: nn.Module, batch: Batch) -> LabelMatch:
        """Return which classes of the live teacher are the student's, from its answer to a batch.

        Raises:
            RuntimeError: If there is no live teacher.
        """
        if self.source.live is None:
            raise RuntimeError("there is no teacher")
        with torch.no_grad():
            logits = self.source.live.logits(batch.teacher())
        return self.label_match(student, logits)

    def defines_teacher_scores(self, student: nn.Module, batch: Batch) -> bool:
        """Whether the teacher can be measured on data like this batch: labelled, and of classes that it knows."""
        if batch.labels is None:
            return False
        match = self.label_match_on(student, batch)
        if not match.is_comparable:
            logger.info("the teacher's accuracy is not measured: %s", match.describe())
        return match.is_comparable

    def warn_of_guessing(self, scores: Mapping[str, float]) -> None:
        """Warn of a teacher that is hardly better than always giving the commonest answer; see `teacher_scores`."""
        measured, chance = scores[f"teacher_{self.task.score}"], scores[f"chance_{self.task.score}"]
        if is_near_chance(measured, chance):
            logger.warning(
                "the teacher's accuracy is %.3f, and always answering the commonest class gives %.3f: is it trained, "
                "and are its preprocessing and label order those of this data set? (evaluate_teacher=False skips this)",
                measured,
                chance,
            )

    def teacher_scores(
        self, student: nn.Module, dataset: Any, loader: Loader, *, checks_order: bool = True
    ) -> dict[str, float]:
        """Return the teacher's accuracy, and that of always giving the commonest class; shares in [0, 1].

        Args:
            student: The student, whose classes count.
            dataset: What it is measured on: a data set, the first of several by name, or None.
            loader: Gives the batches of a data set, on the device.
            checks_order: Whether a teacher is refused that evidently knows the classes in another order.

        Raises:
            ValueError: If there is no teacher or no data, rows have no labels, or the teacher predicts other
                classes, or evidently the same ones in another order.
            RuntimeError: If its logits are not finite.
        """
        if self.source.live is None:
            raise ValueError("there is no teacher to evaluate")
        if (dataset := first_dataset(dataset)) is None:
            raise ValueError("give an eval_dataset to evaluate the teacher on")
        self.source.begin(_LOGITS_ALONE)
        gathered: tuple[list[Tensor], ...] = ([], [], [], [], [])
        for inputs in loader(dataset):
            batch = self.reader.read(inputs)
            if batch.labels is None:
                raise ValueError("the evaluation set has no labels to measure the teacher against")
            self.task.check_truth(batch.labels)
            logits = self.source.targets(batch)[LOGITS]
            match = self.label_match(student, logits)
            if not match.is_comparable:
                raise ValueError(f"the teacher's accuracy is not defined: {match.describe()}")
            prediction = match.teacher_in_student_space(logits)
            hits = self.task.right(prediction, batch.labels)
            answers, sure = self.task.answers(prediction), self.task.confidences(prediction)
            parts = hits, batch.labels, answers, sure, logits.isfinite().all(1)
            for found, part in zip(gathered, self.accelerator.gather_for_metrics(parts), strict=True):
                found.append(part)
        right, truth, said, confidences, finite = map(torch.cat, gathered)
        check_none_missing(truth)
        if broken := int((~finite).sum()):
            raise RuntimeError(
                f"the teacher's logits are not finite for {broken} of {len(finite)} evaluation images. Look at its "
                "weights, its precision (teacher_precision='fp32') and the images."
            )
        self.taught = GivenAnswers(*(one.cpu().numpy() for one in (truth.long(), said, confidences, right)))
        measured, chance = right.float().mean().item(), self.task.chance(truth)
        if checks_order:
            check_order(truth, said, match)
            # Of few images it cannot be told, and the training set has more.
            if match.kind == "assumed" or is_near_chance(measured, chance):
                self.classes.look_at_answers(match, warns=False)
        return {f"teacher_{self.task.score}": measured, f"chance_{self.task.score}": chance}

    def divergence(self, student: nn.Module, loader: Iterable[Mapping[str, Any]]) -> float:
        """Return the mean divergence of the student from the teacher, in nats, as both are now.

        Args:
            student: The student, not wrapped.
            loader: Batches on the device.
        """
        live = self.source.live
        if live is None:
            raise RuntimeError("there is no teacher")
        found = []
        with evaluating(student), torch.no_grad():
            for inputs in loader:
                batch = self.reader.read(inputs)
                with self.accelerator.autocast():
                    ours = self.task.prediction(student(**batch.student), student, "student")
                theirs = live.precise_logits(batch.teacher())
                apart = divergence(ours, theirs, self.label_match(student, theirs))
                found.append(self.accelerator.gather_for_metrics(apart))
        return torch.cat(found).mean().item()


class _Agreement:
    """The agreement of a student with its teacher, batch by batch."""

    def __init__(self, distiller: Distiller, device: torch.device) -> None:
        self.distiller = distiller
        self._weights = torch.zeros(len(distiller.terms), device=device)
        self._parts: list[Tensor] = []

    def run(
        self, inputs: Mapping[str, Any], targets: Mapping[str, Tensor], labels: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the logits of student and teacher, and the agreement of each boundary per sample, (N, B)."""
        outputs = self.distiller(inputs, targets, labels, self._weights)
        return outputs["logits"], targets[LOGITS], outputs.get("agreement")

    def add(self, part: Tensor) -> None:
        """Add the agreements of a batch of all processes, (N, 1 + B)."""
        self._parts.append(part)

    def means(self, prefix: str) -> dict[str, float]:
        """Return the means by the names of metrics; without those that are not defined."""
        if not self._parts:
            return {}
        names = ["teacher_agreement", *self.distiller.agreement_names]
        means = dict(zip(names, torch.cat(self._parts).mean(0).tolist(), strict=True))
        # Not a number: the teacher predicts other classes than the student.
        return {f"{prefix}_{name}": mean for name, mean in means.items() if not math.isnan(mean)}
