"""A live model as what teaches a run: as it is, faster where that gives the same numbers, or trained too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from hf_abkd.data.batch import Batch
from hf_abkd.data.table.columns import Column
from hf_abkd.layers.capture import CapturePoint
from hf_abkd.models.kept_state import random_state_kept
from hf_abkd.models.label_spaces import LabelMatch
from hf_abkd.models.outputs import LOGITS
from hf_abkd.models.placement import is_sharded
from hf_abkd.teachers.identity import fingerprint, reference
from hf_abkd.teachers.live import LiveTeacher
from hf_abkd.teachers.source import TeacherSource, Wanted
from hf_abkd.teachers.speed.fast_copy import SpeedUps


class LiveSource(TeacherSource):
    """A model that runs beside the student, as a faster copy where that gives the same numbers.

    Args:
        teacher: The model.
        speed_ups: Returns what may be done to evaluate it faster, as it is wanted now.
    """

    def __init__(self, teacher: LiveTeacher, speed_ups: Callable[[], SpeedUps]) -> None:
        self.live: LiveTeacher = teacher
        self._speed_ups = speed_ups
        self._points: dict[str, CapturePoint] = {}
        self._inputs: Mapping[str, Any] | None = None
        self._wanted = Wanted()
        # Here all processes are; later one alone asks, for a card or a checkpoint, and the others would not answer.
        self._in_parts = reference(teacher.model) if is_sharded(teacher.model) else None

    def identify(self) -> dict[str, Any]:
        """Return class, name and fingerprint of the model."""
        return dict(reference(self.live.model) if self._in_parts is None else self._in_parts)

    def begin_run(self, labels: LabelMatch | None, *, tells: bool) -> dict[str, Any]:
        """Identify the teacher, and make its faster copy again if somebody changed its weights since."""
        if self.live.was_changed:
            self.speed_up()
        return self.identify()

    def changed(self, identity: Mapping[str, Any]) -> str | None:
        """Return the fingerprint of weights that the model was given since; of one in parts that is not looked for."""
        if self._in_parts is not None:
            return None
        now = fingerprint(self.live.model)
        return None if now == identity["fingerprint"] else now

    def connect(
        self, points: Mapping[str, CapturePoint], columns: Mapping[str, Column], inputs: Mapping[str, Any]
    ) -> None:
        """Take the tensors in, and make the faster copy."""
        self._points, self._inputs = dict(points), inputs
        self.speed_up()

    def speed_up(self) -> None:
        """Run a faster copy of the weights that the model has now, once its tensors are known."""
        if self._inputs is not None:
            with random_state_kept():
                self.live.optimize(self._inputs, self._points, self._speed_ups())

    def begin(self, wanted: Wanted) -> None:
        """Select these tensors; of boundaries no more than their sides."""
        self._wanted = wanted
        points = {name: point for name, point in self._points.items() if name in wanted.names}
        self.live.select(points, boundaries=wanted.boundaries - wanted.values, logits=LOGITS in wanted.names)

    def targets(self, batch: Batch) -> dict[str, Any]:
        """Return the selected tensors of a batch."""
        return self.live(batch.teacher()) if self._wanted.names else {}

    def sums(self) -> dict[str, Tensor]:
        """Return the sums of the selected tensors of the last batch."""
        return self.live.sums if self._wanted.names and not self._wanted.inside else {}


class AdaptingSource(LiveSource):
    """A teacher that some stages train in the same steps as the student; it runs as it is, without a faster copy.

    Args:
        teacher: The model.
        speed_ups: Not asked.
        is_taught: Whether it was trained before. One that learns from the student is known by its class alone: its
            weights are in checkpoints, and those that it began with, often random ones, in none.
    """

    def __init__(self, teacher: LiveTeacher, speed_ups: Callable[[], SpeedUps], *, is_taught: bool = True) -> None:
        super().__init__(teacher, speed_ups)
        self.is_taught = is_taught

    def identify(self) -> dict[str, Any]:
        """Return what identifies the model."""
        identity = super().identify()
        return identity if self.is_taught else {**identity, "fingerprint": identity["class"]}

    def speed_up(self) -> None:
        """Do nothing: a copy would keep the weights of before."""

    def changed(self, identity: Mapping[str, Any]) -> str | None:
        """Return None: a checkpoint holds the weights."""
        return None

    def targets(self, batch: Batch) -> dict[str, Any]:
        """Return the tensors, or what the teacher takes of the batch where the module that is trained runs it."""
        return self.live.arguments(batch.teacher()) if self._wanted.inside else super().targets(batch)

    def modules(self) -> dict[str, nn.Module]:
        """Return the teacher, which a resumed run goes on with."""
        return {"teacher": self.live.model}

    def end(self) -> None:
        """Put the teacher in eval mode, without gradients."""
        self.live.model.requires_grad_(False).eval().zero_grad()
