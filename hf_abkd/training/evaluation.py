"""Evaluation: how good the student is, how far it agrees with the teacher, and how good the teacher is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional

from hf_abkd.data.batch import BatchReader
from hf_abkd.models.kept_state import evaluating
from hf_abkd.models.label_spaces import LabelMatch, label_match
from hf_abkd.models.outputs import LOGITS, logits_of
from hf_abkd.teachers.route.divergence import divergence
from hf_abkd.teachers.source import TeacherSource, Wanted
from hf_abkd.training.distiller import Distiller
from hf_abkd.training.setup import Setup
from hf_abkd.training.wiring import teacher_names

#: Kinds of label spaces between which no class is known to be the same.
INCOMPARABLE = ("disjoint", "unknown")
_LOGITS_ALONE = Wanted(values=frozenset({LOGITS}))


class Evaluation:
    """Evaluates a student and its teacher, in every process alike.

    Args:
        source: What teaches the student.
        reader: Makes a batch of what the data loader gives.
        accelerator: For autocast, and to gather over processes.
        label_smoothing: The label smoothing of the loss of an evaluation.
    """

    def __init__(
        self, source: TeacherSource, reader: BatchReader, accelerator: Accelerator, label_smoothing: float
    ) -> None:
        self.source = source
        self.reader = reader
        self.accelerator = accelerator
        self.label_smoothing = label_smoothing
        self._agreement: _Agreement | None = None
        self._labels: LabelMatch | None = None

    # ---- The student ----

    def outputs(self, student: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the `loss` () of a batch, None without labels, and its `logits` (N, K).

        Args:
            student: The student, in eval mode.
            inputs: What the data loader gives, on the device.
        """
        batch = self.reader.read(inputs)
        if self._agreement is None:
            logits = logits_of(student(**batch.student), student, "student")
        else:
            logits, taught, boundaries = self._agreement.run(batch.student, self.source.targets(batch), batch.labels)
            same = self._same_class(student, logits, taught)
            parts = [same[:, None], *([] if boundaries is None else [boundaries])]
            self._agreement.add(self.accelerator.gather_for_metrics(torch.cat(parts, dim=1)))
        loss = None
        if batch.labels is not None:
            loss = functional.cross_entropy(logits.float(), batch.labels, label_smoothing=self.label_smoothing)
        return {"loss": loss, "logits": logits}

    @contextmanager
    def measuring_agreement(self, student: nn.Module, setup: Setup) -> Iterator[_Agreement]:
        """Run the teacher beside the student meanwhile, and compare every boundary that a stage of the run names.

        Args:
            student: The student, not wrapped.
            setup: What the run consists of.
        """
        terms = [term for term in setup.terms if term.objective.boundary]
        boundaries = frozenset(teacher_names(terms))
        distiller = Distiller(student, terms, setup.wiring.student, setup.wiring.overwritten).attach().eval()
        self.source.begin(Wanted(_LOGITS_ALONE.values, boundaries))
        self._agreement = _Agreement(distiller, self.accelerator.device)
        try:
            yield self._agreement
        finally:
            distiller.detach()
            self._agreement = None

    def _same_class(self, student: nn.Module, logits: Tensor, taught: Tensor) -> Tensor:
        """Return 1 for each sample that both models give one class, (N,); not a number where classes differ."""
        match = self.label_match(student, taught)
        if match.kind in INCOMPARABLE:
            return logits.new_full((len(logits),), math.nan)
        return (logits.argmax(1) == match.teacher_in_student_space(taught).argmax(1)).float()

    # ---- The teacher ----

    def label_match(self, student: nn.Module, teacher_logits: Tensor) -> LabelMatch:
        """Return which classes of the live teacher are the student's.

        Raises:
            RuntimeError: If there is no live teacher.
        """
        if self.source.model is None:
            raise RuntimeError("there is no teacher")
        if self._labels is None:
            classes: Any = student
            number = classes.config.num_labels
            self._labels = label_match(student, self.source.model, number, teacher_logits.shape[1])
        return self._labels

    def teacher_scores(self, student: nn.Module, loader: Iterable[Mapping[str, Any]]) -> dict[str, float]:
        """Return the teacher's accuracy, and that of always giving the commonest class; shares in [0, 1].

        Args:
            student: The student, whose classes count.
            loader: Batches on the device.

        Raises:
            ValueError: If the batches have no labels, or the teacher predicts other classes.
        """
        self.source.begin(_LOGITS_ALONE)
        right, truth = [], []
        for inputs in loader:
            batch = self.reader.read(inputs)
            if batch.labels is None:
                raise ValueError("the evaluation set has no labels to measure the teacher against")
            logits = self.source.targets(batch)[LOGITS]
            match = self.label_match(student, logits)
            if match.kind in INCOMPARABLE:
                raise ValueError(f"the teacher's accuracy is not defined: {match.describe()}")
            answers = match.teacher_in_student_space(logits).argmax(1)
            matches, labels = self.accelerator.gather_for_metrics((answers == batch.labels, batch.labels))
            right.append(matches)
            truth.append(labels)
        all_labels = torch.cat(truth)
        return {
            "teacher_accuracy": torch.cat(right).float().mean().item(),
            "chance_accuracy": (all_labels.bincount().max() / len(all_labels)).item(),
        }

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
                    ours = logits_of(student(**batch.student), student, "student")
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
