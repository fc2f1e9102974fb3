"""What a run is taught by: a live teacher, a cached one, one that is trained too, one on a route, or none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import BaseImageProcessor

from hf_abkd.data.batch import Batch
from hf_abkd.data.table.columns import Column
from hf_abkd.layers.capture import CapturePoint
from hf_abkd.models.label_spaces import LabelMatch
from hf_abkd.teachers.cache.teacher_cache import TeacherCache
from hf_abkd.teachers.live import LiveTeacher

Collator = Callable[..., Any]


@dataclass(frozen=True)
class Wanted:
    """Which tensors of the teacher are read, by the names that terms use.

    Args:
        values: Those whose values are compared, "logits" among them.
        boundaries: Those of which only the side of 0 is compared.
        inside: Whether the module that is trained runs the teacher itself, because the teacher is trained too.
    """

    values: frozenset[str] = frozenset()
    boundaries: frozenset[str] = frozenset()
    inside: bool = False

    @property
    def names(self) -> frozenset[str]:
        """All of them."""
        return self.values | self.boundaries


class TeacherSource:
    """What every kind of teacher offers a run.

    A run asks `begin` for what a stage or an evaluation reads, then `targets` for each batch, and calls `end` when the
    stage is over.

    Attributes:
        live: The model that runs beside the student; None if there is none.
        cache: What a teacher said of the training set; None if the teacher itself is there.
        is_taught: Whether it was trained before; one that learns from the student may begin as one that guesses.
        of_student: Whether it is made of the student, and begins as a copy of it.
    """

    live: LiveTeacher | None = None
    cache: TeacherCache | None = None
    is_taught: bool = True
    of_student: bool = False

    @property
    def compared(self) -> LiveTeacher | TeacherCache | None:
        """What layers are paired and connected with."""
        return self.live or self.cache

    @property
    def model(self) -> nn.Module | None:
        """The teacher's model; None if it is not there."""
        return None if self.live is None else self.live.model

    @property
    def processor(self) -> BaseImageProcessor | None:
        """The image processor that the teacher brings along."""
        return None

    def identify(self) -> dict[str, Any] | None:
        """Return what identifies the teacher, with the weights that it has now; None without one."""
        return None

    def connect(
        self, points: Mapping[str, CapturePoint], columns: Mapping[str, Column], inputs: Mapping[str, Any]
    ) -> None:
        """Take in what the names of the terms stand for.

        Args:
            points: The tensor of the model behind each name.
            columns: The column of a cache behind each name.
            inputs: A batch as the teacher takes it.
        """

    def begin(self, wanted: Wanted) -> None:
        """Give these tensors, and no more, from the next batch on."""

    def targets(self, batch: Batch) -> dict[str, Any]:
        """Return what the teacher says of a batch, by the names that terms use; what nobody reads costs no pass."""
        return {}

    def sums(self) -> dict[str, Tensor]:
        """Return, of what a live teacher said of the last batch, the sum of each row, (N,), by name of the tensor.

        A sum is not finite where a value was not, which neither the side of a boundary nor a mean would show.
        """
        return {}

    def collator(self, collator: Collator, wanted: frozenset[str] | None, images: str, view: Tensor) -> Collator:
        """Return what makes batches of the training set.

        Args:
            collator: What makes batches of rows.
            wanted: The names of the tensors that are read of the teacher; None for all that there are.
            images: The name of the images in a batch.
            view: Which view of the images the running epoch shows, (), int64, in shared memory.
        """
        return collator

    def modules(self) -> dict[str, nn.Module]:
        """Return what of the teacher a checkpoint holds, by name."""
        return {}

    def end(self) -> None:
        """Leave the teacher as it is between stages."""

    def changed(self, identity: Mapping[str, Any]) -> str | None:
        """Return the fingerprint of the teacher's weights if others changed them; None if they are as they were.

        Args:
            identity: What `identify` returned before.
        """
        return None

    # ---- The student that it learns from ----

    def begin_with(self, student: nn.Module) -> None:
        """Take in the student of a run that begins, before it is identified.

        Args:
            student: The student, not wrapped.
        """

    def follow(self, student: nn.Module, step: int) -> None:
        """Take in what an optimiser step made of the student.

        Args:
            student: The student, not wrapped.
            step: How many steps of the run are done.
        """

    # ---- Weights that it takes on along a route ----

    def begin_run(self, labels: LabelMatch | None, *, tells: bool) -> dict[str, Any] | None:
        """Return what identifies the teacher at the beginning of a run, which is checked against its classes.

        Args:
            labels: Which classes of the two models are the same.
            tells: Whether this process speaks for all.
        """
        return self.identify()

    def check_lengths(self, steps: Sequence[int]) -> None:
        """Check that stages of so many steps have one for each set of weights.

        Raises:
            ValueError: If one has not.
        """

    def state(self) -> dict[str, Any] | None:
        """Return what a checkpoint holds of the routes; None without one."""
        return None

    def resume(self, state: Mapping[str, Any] | None) -> None:
        """Begin a run, or go on with one that left this state."""

    def is_due(self, stage: int, done: int, steps: int) -> bool:
        """Whether the next step needs other weights.

        Args:
            stage: Which stage runs.
            done: How many of its steps are done.
            steps: How many it has.
        """
        return False

    def move(self, stage: int, done: int, steps: int, divergence: Callable[[Any], float]) -> dict[str, float] | None:
        """Give the teacher the weights of the next step; return what the log says of it, if anything.

        Args:
            stage: Which stage runs.
            done: How many of its steps are done.
            steps: How many it has.
            divergence: Measures the student's mean divergence from the teacher, as both are now, on a data set.
        """
        return None


class NoTeacher(TeacherSource):
    """A student that learns from the labels alone."""
