"""RouteFollower: gives a live teacher the anchors of the stages' routes, and its own weights back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hf_abkd.models.label_spaces import LabelMatch
from hf_abkd.stages.stage import Stage
from hf_abkd.teachers.live import LiveTeacher, fingerprint
from hf_abkd.teachers.route.anchors import read_anchor
from hf_abkd.training.progress import Span

logger = logging.getLogger(__name__)


class RouteFollower:
    """Walks the routes of a run's stages; there is one model, and one anchor in it at a time.

    Args:
        teacher: The run's teacher.
        stages: The stages, with or without routes.

    Raises:
        FileNotFoundError: If an anchor does not exist.
        ValueError: If an anchor is not complete, or not of the teacher's architecture.
    """

    def __init__(self, teacher: LiveTeacher, stages: Sequence[Stage]) -> None:
        self.teacher = teacher
        self.routes = [stage.route for stage in stages]
        folders = dict.fromkeys(folder for route in self.routes if route is not None for folder in route.anchors)
        #: What was found in each folder. It has to be the same when the stage comes to it, hours later.
        self.fingerprints = {folder: fingerprint(read_anchor(teacher.model, folder)) for folder in folders}
        self._chosen: list[dict[int, int]] = [{} for _ in self.routes]
        self._own: dict[str, Tensor] | None = None
        self._here: tuple[int, int] | None = None

    @classmethod
    def of(cls, teacher: LiveTeacher | None, stages: Sequence[Stage], *, cached: bool) -> RouteFollower | None:
        """Return what walks the routes of some stages; None if there are none.

        Args:
            teacher: The run's teacher, if it is there itself.
            stages: The stages.
            cached: Whether a cache takes its place.

        Raises:
            FileNotFoundError: If an anchor does not exist.
            ValueError: If there is no teacher to give the weights to, or an anchor is not one of it.
        """
        routed = [stage.name for stage in stages if stage.route is not None]
        if not routed:
            return None
        if teacher is None:
            raise ValueError(
                f"the stages {routed} have weights for the teacher to take on, and "
                + (
                    "the teacher is a cache, which holds what one set of weights said: pass the model itself"
                    if cached
                    else "there is none: pass `teacher`, a model of their architecture"
                )
            )
        return cls(teacher, stages)

    def check_lengths(self, spans: Sequence[Span]) -> None:
        """Check that every part of every route has a step.

        Raises:
            ValueError: If one has none.
        """
        for route, span in zip(self.routes, spans, strict=True):
            if route is not None:
                try:
                    route.check_length(span.stop - span.start)
                except ValueError as error:
                    raise ValueError(f"stage {span.name!r}: {error}") from error

    def is_due(self, span: Span, step: int) -> bool:
        """Whether the teacher needs other weights for the step of the run after this one."""
        return self.routes[span.index] is not None and self._place(span, step) != self._here

    @property
    def measures(self) -> bool:
        """Whether a route asks how far the student is from its anchors."""
        return any(route is not None and route.data is not None for route in self.routes)

    def move(self, span: Span, step: int, divergence: Callable[[Any], float]) -> dict[str, float] | None:
        """Give the teacher the anchor of the next step; return what the log says of it.

        None of an anchor that a run had begun with before it was resumed: the log has it.

        Args:
            span: Where the stage lies.
            step: How many steps of the run are done.
            divergence: Measures the student's mean divergence from the teacher, as both are now, on a data set.

        Raises:
            ValueError: If the folder holds other weights than when the run began.
        """
        route = self.routes[span.index]
        if route is None:
            raise RuntimeError(f"stage {span.name!r} has no route")
        place = index, part = self._place(span, step)
        measured: dict[int, float] = {}

        def hardness(anchor: int) -> float:
            if anchor not in measured:
                self._load(route.anchors[anchor])
                measured[anchor] = divergence(route.data)
            return measured[anchor]

        begins = part not in self._chosen[index]
        resumed = not begins and self._here is None
        if begins:
            self._chosen[index][part] = route.choose(part, self._before(index, part), hardness)
        anchor = self._chosen[index][part]
        if measured:
            logger.info("divergence of the student from the anchors %s", measured)
        self._load(route.anchors[anchor])
        self._here = place
        logger.info("the teacher has the weights in %s", route.anchors[anchor])
        if resumed:
            return None
        log: dict[str, float] = {"anchor": anchor + 1}
        return {**log, "anchor_divergence": measured[anchor]} if anchor in measured else log

    def restore(self) -> bool:
        """Give the teacher its own weights back; return whether it had others."""
        self._here = None
        if self._own is None:
            return False
        self.teacher.load(self._own)
        self._own = None
        return True

    def tell_end(self, own: str) -> None:
        """Warn of a run that ends with other weights than the teacher was given with, of which this is the digest."""
        last = None if self.routes[-1] is None else self.routes[-1].anchors[-1]
        if last is not None and self.fingerprints[last] != own:
            logger.warning(
                "the run ends with the weights in %s, and the teacher that was given has others: teacher_accuracy and "
                "evaluations after the run are about the latter. Pass as teacher the model in that folder.",
                last,
            )

    def state(self) -> dict[str, Any]:
        """Return the fingerprints of the anchors of each stage, and which were chosen so far."""
        return {
            "anchors": [
                None if r is None else [self.fingerprints[folder] for folder in r.anchors] for r in self.routes
            ],
            "chosen": [sorted(chosen.items()) for chosen in self._chosen],
        }

    def start(self, state: Mapping[str, Any] | None) -> None:
        """Begin a run, or go on with one that left this state."""
        saved = [[] for _ in self.routes] if state is None else state["chosen"]
        self._chosen = [dict(chosen) for chosen in saved]

    def _place(self, span: Span, step: int) -> tuple[int, int]:
        route = self.routes[span.index]
        return span.index, 0 if route is None else route.part_at(step - span.start, span.stop - span.start)

    def _before(self, index: int, part: int) -> int | None:
        """Return the anchor of the part before, in this stage or in one before that had it of the same route."""
        anchors = route.anchors if (route := self.routes[index]) is not None else ()
        for route, chosen in zip(reversed(self.routes[: index + 1]), reversed(self._chosen[: index + 1]), strict=True):
            if route is not None and route.anchors == anchors and part - 1 in chosen:
                return chosen[part - 1]
        return None

    def _load(self, folder: Path) -> None:
        state = read_anchor(self.teacher.model, folder)
        if fingerprint(state) != self.fingerprints[folder]:
            raise ValueError(f"the anchor {folder} was changed since the run began: it holds other weights now")
        if self._own is None:
            # On the CPU, where a copy for the time of the stage costs the device nothing.
            own = self.teacher.model.state_dict()
            self._own = {name: tensor.detach().cpu().clone() for name, tensor in own.items()}
        self.teacher.load(state)


def divergence(student: Tensor, teacher: Tensor, match: LabelMatch) -> Tensor:
    """Return the Kullback-Leibler divergence of a student's classes from a teacher's, sum p_T log(p_T / p_S), in nats.

    Of label spaces that are not the same, over the classes that both have.

    Shapes: student (N, K), teacher (N, K'), logits; returns (N,).
    """
    ours = student.detach().float()[:, list(match.student_classes)].log_softmax(1)
    theirs = teacher.detach().float()[:, list(match.teacher_classes)].log_softmax(1)
    return nn.functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(1)
