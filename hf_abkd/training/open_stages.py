"""What stages leave open, filled in from a batch of the data: pairs of layers, and the input of an extra head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_abkd.data.batch import Batch
from hf_abkd.layers.plan import Plan
from hf_abkd.layers.sites import Trace
from hf_abkd.models import adapters
from hf_abkd.models.kept_state import evaluating, random_state_kept
from hf_abkd.models.label_spaces import LabelMatch
from hf_abkd.stages.stage import Stage, completed
from hf_abkd.teachers.source import TeacherSource
from hf_abkd.training.classes import RunClasses
from hf_abkd.training.wiring.proposals import propose_heads, propose_plan
from hf_abkd.training.wiring.trial import head_input


class OpenStages:
    """Completes the stages of a run.

    Args:
        student: The student.
        source: What teaches it.
        classes: What data and models call their classes.
        sample: Returns a few rows of the data.
        device: Where the models run.

    Attributes:
        traces: What a forward pass of student and teacher showed, if layers were paired.
        head: The tensor of the student that an extra head reads; None if there is none.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        source: TeacherSource,
        classes: RunClasses,
        sample: Callable[[], Batch],
        device: torch.device,
    ) -> None:
        self.student, self.source, self.classes, self.sample = student, source, classes, sample
        self.device = device
        self.traces: tuple[Trace, Trace] | None = None
        self._paired = False
        self.head: str | None = None
        self._labels: LabelMatch | None = None

    def complete(self, stages: Sequence[Stage]) -> list[Stage]:
        """Return the stages with all of their terms.

        Raises:
            ValueError: If there is no data or no teacher to complete them by.
        """
        return completed(stages, self._propose, self._propose_heads, self._head_input)

    def tell(self, plan: Plan | None) -> None:
        """Say what was chosen for the user, who should see it.

        Args:
            plan: The plan of the run.
        """
        if self._paired and plan is not None:
            tqdm.write(f"Layers paired automatically:\n{plan.table()}")
        elif plan is not None:
            chosen = [(*pair.units, pair.teacher.layer) for pair in plan.pairs if pair.units is not None]
            parts = (f"{count:,} of the {total:,} units of {layer!r}" for count, total, layer in chosen)
            if chosen:
                tqdm.write(f"Of wide layers of the teacher the student is compared with {', '.join(parts)}.")
        if self.head is not None and self._labels is not None:
            match = self._labels
            # As many classes are often the same ones under other names.
            rename = (
                f" If the classes are the same ({match.left_out()}), rename them in `config.id2label` of the teacher."
                if match.kind == "disjoint" and match.num_student == match.num_teacher
                else ""
            )
            tqdm.write(
                f"The teacher has other classes: {match.describe()}. The student learns from its layers, from an extra "
                f"head on {self.head!r} that predicts the teacher's logits, and from the labels; no logits are "
                f"compared.{rename}"
            )

    def _propose(self) -> Plan:
        """Pair the layers of both models."""
        teacher = self.source.compared
        if teacher is None:
            raise ValueError("layers cannot be paired without a teacher; pass `teacher`")
        batch = self.sample()
        with random_state_kept():
            plan, self.traces = propose_plan(self._plain(), teacher, batch.student, batch.teacher(), batch.images)
        self._paired = True
        return plan

    def _propose_heads(self) -> Plan:
        """Pair what the last layers of both models read, the features in front of their classifiers."""
        live = self.source.live
        if live is None:
            why = (
                "without a teacher; pass `teacher`" if self.source.compared is None else "of a teacher that was cached"
            )
            raise ValueError(
                f"the features in front of the classifiers cannot be paired {why}. Name the layers that are compared, "
                "or ask for pairs='last'."
            )
        batch = self.sample()
        student = self.student.to(self.device)
        with random_state_kept():
            plan = propose_heads(student, live, batch.student, batch.teacher(), self.classes.task)
        self._paired = True
        return plan

    def _plain(self) -> nn.Module:
        # Depths are those of the plain model: the small matrices of adapters would make layers look deeper.
        plain: nn.Module = adapters.merged(self.student).to(self.device)
        return plain

    def _head_input(self) -> str | None:
        """Return what an extra head reads, if the teacher has other classes than the student; None if not."""
        number = self._number_of_the_teachers_classes()
        if number is None:
            return None
        self._labels = self.classes.match(self.student, self.classes.task.classes(self.student.config), number)
        if self._labels.is_comparable:
            return None
        batch: Any = self.sample().student
        student = self.student.to(self.device)
        with random_state_kept(), evaluating(student), torch.no_grad():
            self.head = head_input(student, lambda: student(**batch), self.classes.task.classes(student.config))
        return self.head

    def _number_of_the_teachers_classes(self) -> int | None:
        """Return how many there are; None if nobody says and there is no data to ask the teacher about."""
        live, cache = self.source.live, self.source.cache
        if cache is not None:
            return cache.classes
        if live is None:
            return None
        if isinstance(live.model, PreTrainedModel):
            return self.classes.task.classes(live.model.config)
        if all(dataset is None for dataset in self.classes.datasets()):
            return None
        with torch.no_grad():
            return live.logits(self.sample().teacher()).shape[1]
