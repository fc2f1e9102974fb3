"""A live model that takes on other weights along a route as what teaches a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from hf_abkd.data.batch import Batch
from hf_abkd.data.table.columns import Column
from hf_abkd.layers.capture import CapturePoint
from hf_abkd.models.label_spaces import LabelMatch
from hf_abkd.teachers.live import LiveTeacher
from hf_abkd.teachers.live_source import LiveSource
from hf_abkd.teachers.route.follower import RouteFollower
from hf_abkd.teachers.source import TeacherSource, Wanted


class RouteSource(TeacherSource):
    """A live teacher that takes on other weights along a route, and has its own back after each stage.

    Args:
        inner: The live teacher.
        follower: What gives it the weights.
    """

    def __init__(self, inner: LiveSource, follower: RouteFollower) -> None:
        self.inner, self.follower = inner, follower
        self.live: LiveTeacher = inner.live

    def identify(self) -> dict[str, Any]:
        """Return what identifies the teacher."""
        return self.inner.identify()

    def connect(
        self, points: Mapping[str, CapturePoint], columns: Mapping[str, Column], inputs: Mapping[str, Any]
    ) -> None:
        """Hand the tensors on."""
        self.inner.connect(points, columns, inputs)

    def begin(self, wanted: Wanted) -> None:
        """Hand the selection on."""
        self.inner.begin(wanted)

    def targets(self, batch: Batch) -> dict[str, Any]:
        """Return what the teacher says with the weights that it has now."""
        return self.inner.targets(batch)

    def sums(self) -> dict[str, Tensor]:
        """Return the sums of the last batch."""
        return self.inner.sums()

    def begin_run(self, labels: LabelMatch | None, *, tells: bool) -> dict[str, Any]:
        """Identify the teacher, and warn of a run that ends with other weights than its own.

        Raises:
            ValueError: If weights are chosen by a divergence that the classes of the models do not allow.
        """
        if self.follower.measures and labels is not None:
            labels.check_logits("the choice of anchors by their divergence")
        identity = self.inner.begin_run(labels, tells=tells)
        if tells:
            self.follower.tell_end(identity["fingerprint"])
        return identity

    def check_lengths(self, steps: Sequence[int]) -> None:
        """Check that every part of every route has a step."""
        self.follower.check_lengths(steps)

    def state(self) -> dict[str, Any]:
        """Return the fingerprints of the weights of each stage, and which were chosen so far."""
        return self.follower.state()

    def resume(self, state: Mapping[str, Any] | None) -> None:
        """Begin a run, or go on with one that left this state."""
        self.follower.start(state)

    def is_due(self, stage: int, done: int, steps: int) -> bool:
        """Whether the teacher needs other weights for the next step."""
        return self.follower.is_due(stage, done, steps)

    def move(self, stage: int, done: int, steps: int, divergence: Callable[[Any], float]) -> dict[str, float] | None:
        """Give the teacher the weights of the next step, and make a fast copy of them."""
        logs = self.follower.move(stage, done, steps, divergence)
        self.inner.speed_up()
        return logs

    def modules(self) -> dict[str, nn.Module]:
        """Return what of the teacher a checkpoint holds."""
        return self.inner.modules()

    def end(self) -> None:
        """Give the teacher its own weights back."""
        self.inner.end()
        if self.follower.restore():
            self.inner.speed_up()
