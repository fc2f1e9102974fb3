"""Extensions: further images that a stage makes of each of its training batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from hf_abkd.data.batch import Batch, extended, of_images
from hf_abkd.data.draws import Draws
from hf_abkd.models.kept_state import evaluating
from hf_abkd.models.label_spaces import LabelMatch
from hf_abkd.models.outputs import LOGITS
from hf_abkd.stages.term import Term
from hf_abkd.teachers.live import LiveTeacher


class Weighted(Protocol):
    """A term of a run, as far as an extension has to know it."""

    @property
    def rows(self) -> str | None:
        """Which rows of a batch it compares; None for all."""

    def weight_at(self, progress: float) -> float:
        """Return its weight when this share of the stage is done, from 0 to 1."""


#: The rows of the batch that was extended.
BASE = "base"


@dataclass(frozen=True)
class Material:
    """What an extension makes images of: a batch, and what both models say of it.

    Args:
        images: The images that teacher and student share, augmented, (N, C, H, W), in the student's colours.
        labels: Their classes, (N,).
        student: The student's logits, (N, K), in eval mode and detached.
        teacher: The teacher's logits, (N, K), in the order of the student's classes.
        logits_of: The teacher as a function of shared images: their logits (M, K), likewise, which depend on the images
            by a graph.
        clamp_: Cuts images off at the colours that pixels have, in place.
        draws: Random numbers of each image.
    """

    images: Tensor
    labels: Tensor
    student: Tensor
    teacher: Tensor
    logits_of: Callable[[Tensor], Tensor]
    clamp_: Callable[[Tensor], Tensor]
    draws: Draws


class Extension(ABC):
    """Makes further images of a batch; terms name their rows by `group`, and those of the batch by `"base"`.

    All of them go through the student in one forward pass, behind the batch.
    """

    #: BibTeX of the paper, for model cards.
    citation: ClassVar[str] = ""
    #: What the rows of the new images are called.
    group: ClassVar[str]
    #: How many sums `make` returns beside the images.
    figures: ClassVar[int]

    @abstractmethod
    def make(self, material: Material) -> tuple[Tensor, Tensor]:
        """Return new images (M, C, H, W), M from 0 on, and sums of what is logged, (`figures`,), float32."""

    @abstractmethod
    def summary(self, sums: Sequence[float]) -> dict[str, float]:
        """Return what is logged of the sums over batches and processes."""


def groups_of(extension: Extension | None, batch: Batch) -> list[str]:
    """Return the names of the groups of rows that training batches have."""
    return [*(batch.rows or ()), *(() if extension is None else (BASE, extension.group))]


class Extender:
    """Extends the batches of a stage.

    Args:
        extension: What makes the images.
        student: The student, not wrapped.
        teacher: The teacher.
        labels: Which classes of the two are the same.
        clamp_: Cuts images off at the colours that pixels have, in place.

    Raises:
        ValueError: If the two models do not have the same classes.
    """

    def __init__(
        self,
        extension: Extension,
        student: nn.Module,
        teacher: LiveTeacher,
        labels: LabelMatch,
        clamp_: Callable[[Tensor], Tensor],
    ) -> None:
        if labels.kind not in ("same", "permuted", "assumed"):
            raise ValueError(
                f"{type(extension).__name__} moves images between classes that both models know: {labels.describe()}"
            )
        self.extension, self.student, self.teacher, self.labels = extension, student, teacher, labels
        self.clamp_ = clamp_

    def __call__(
        self,
        batch: Batch,
        targets: Mapping[str, Tensor],
        targets_of: Callable[[Batch], dict[str, Tensor]],
        terms: Sequence[Weighted],
        progress: float,
        draws: Draws,
        autocast: Callable[[], Any],
    ) -> tuple[Batch, dict[str, Tensor], Tensor]:
        """Return the batch with further images behind it, what the teacher says of all, and the sums to log.

        No image is made where no term that names their rows has a weight.

        Args:
            batch: The batch.
            targets: What the teacher says of it.
            targets_of: The teacher's answer to another batch.
            terms: The terms of the stage.
            progress: How much of the stage is done.
            draws: Random numbers of each image of the batch.
            autocast: The context of the student's forward passes.
        """
        extension = self.extension
        sums = torch.zeros(extension.figures, device=batch.canvas.device)
        if not any(term.rows == extension.group and term.weight_at(progress) > 0 for term in terms):
            return extended(batch, batch.canvas[:0], BASE, extension.group), dict(targets), sums
        images, sums = extension.make(self._material(batch, targets, draws, autocast))
        if len(images) == 0:
            return extended(batch, images, BASE, extension.group), dict(targets), sums
        # Of the new images alone: what the teacher says of the others is known.
        more = targets_of(of_images(batch, images))
        joined = {name: torch.cat([tensor, more[name]]) for name, tensor in targets.items()}
        return extended(batch, images, BASE, extension.group), joined, sums

    def _material(
        self, batch: Batch, targets: Mapping[str, Tensor], draws: Draws, autocast: Callable[[], Any]
    ) -> Material:
        if batch.labels is None:
            raise ValueError(f"{type(self.extension).__name__} needs labels, and the training set has none")
        student = self.student
        # In eval mode, so that the statistics of BatchNorm move once per step and no dropout is drawn twice.
        with evaluating(student), torch.no_grad(), autocast():
            ours = self.teacher.task.prediction(student(**batch.student), student, "student").float()

        def logits(images: Tensor) -> Tensor:
            # In the precision of its weights: rounded to half of that, a step of an attack would be noise.
            with torch.autocast(images.device.type, enabled=False):
                theirs = self.teacher.differentiable_logits(of_images(batch, images).teacher())
            return self.labels.teacher_in_student_space(theirs)

        if LOGITS in targets:
            theirs = self.labels.teacher_in_student_space(targets[LOGITS])
        else:
            with torch.no_grad():
                theirs = logits(batch.canvas)
        return Material(batch.canvas, batch.labels, ours, theirs.float(), logits, self.clamp_, draws)


def refuse_unextendable(
    name: str, extension: Extension, terms: Sequence[Term], teacher: object | None, *, cached: bool
) -> None:
    """Check that a stage can have an extension; needs no data.

    Raises:
        ValueError: If it cannot.
    """
    what = f"stage {name!r} has {type(extension).__name__}, which makes images by the teacher's gradient"
    if cached:
        raise ValueError(f"{what}; a cache holds only what the teacher said of other images. Pass the teacher itself.")
    if teacher is None:
        raise ValueError(f"{what}, and there is none; pass `teacher`")
    if not any(term.rows == extension.group for term in terms):
        raise ValueError(
            f"stage {name!r} makes images that no term reads; give a term rows={extension.group!r}, or leave the "
            "extension out"
        )
    for term in terms:
        if "labels" in term.objective.needs and term.rows != BASE:
            raise ValueError(
                f"stage {name!r}: the images that {type(extension).__name__} makes have no labels; give the term "
                f"{term.name!r} rows={BASE!r}"
            )
