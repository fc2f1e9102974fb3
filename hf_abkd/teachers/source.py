"""What a run is taught by: a live teacher, a cached one, one that is trained too, one on a route, or none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import BaseImageProcessor

from hf_abkd.data.batch import Batch
from hf_abkd.layers.capture import CapturePoint
from hf_abkd.models.kept_state import random_state_kept
from hf_abkd.models.label_spaces import LabelMatch
from hf_abkd.models.outputs import LOGITS
from hf_abkd.teachers.cache.cached_targets import CachedTargets
from hf_abkd.teachers.cache.teacher_cache import TeacherCache
from hf_abkd.teachers.identity import fingerprint, reference
from hf_abkd.teachers.live import LiveTeacher
from hf_abkd.teachers.route.follower import RouteFollower
from hf_abkd.teachers.speed.fast_copy import SpeedUps
from hf_abkd.teachers.table.columns import Column

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
    """

    live: LiveTeacher | None = None
    cache: TeacherCache | None = None

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

    def identify(self) -> dict[str, Any]:
        """Return class, name and fingerprint of the model."""
        return dict(reference(self.live.model))

    def begin_run(self, labels: LabelMatch | None, *, tells: bool) -> dict[str, Any]:
        """Identify the teacher, and make its faster copy again if somebody changed its weights since."""
        if self.live.was_changed:
            self.speed_up()
        return self.identify()

    def changed(self, identity: Mapping[str, Any]) -> str | None:
        """Return the fingerprint of weights that the model was given since."""
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
    """A teacher that some stages train in the same steps as the student; it runs as it is, without a faster copy."""

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


class CachedSource(TeacherSource):
    """What a teacher said of the training set, in the place of the teacher.

    Args:
        cache: The stored targets.
    """

    def __init__(self, cache: TeacherCache) -> None:
        self.cache: TeacherCache = cache
        self._columns: dict[str, Column] = {}
        self._wanted = Wanted()

    @property
    def processor(self) -> BaseImageProcessor:
        """The image processor of the teacher that was cached."""
        return self.cache.processor

    def identify(self) -> dict[str, Any]:
        """Return class, name and fingerprint of the teacher that was cached."""
        return self.cache.reference

    def connect(
        self, points: Mapping[str, CapturePoint], columns: Mapping[str, Column], inputs: Mapping[str, Any]
    ) -> None:
        """Take the columns in."""
        self._columns = dict(columns)

    def begin(self, wanted: Wanted) -> None:
        """Read these columns."""
        self._wanted = wanted

    def targets(self, batch: Batch) -> dict[str, Any]:
        """Return the stored targets of a batch."""
        columns = {name: column for name, column in self._columns.items() if name in self._wanted.names}
        return self.cache.decode(batch.cached, columns) if columns else {}

    def collator(self, collator: Collator, wanted: frozenset[str] | None, images: str, view: Tensor) -> Collator:
        """Return a collator that reads the targets of the images from the disk."""
        if wanted is None:
            # Before the layers are paired nobody knows which are read; of a few rows all of them cost nothing.
            columns = list(self.cache.table.columns)
        else:
            columns = [column.name for name, column in self._columns.items() if name in wanted]
        return CachedTargets(collator, self.cache, columns, images, view) if columns else collator


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
