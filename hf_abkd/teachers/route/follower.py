"""RouteFollower: gives a live teacher the anchors of the stages' routes, and its own weights back.

A place on the way is told in plain numbers: which stage it is, how many of its steps are done, how many it has.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from hf_abkd.teachers.live import LiveTeacher, fingerprint
from hf_abkd.teachers.route.anchors import read_anchor
from hf_abkd.teachers.route.route import TeacherRoute

logger = logging.getLogger(__name__)

#: The name of each stage, and its route if it has one.
NamedRoutes = Sequence[tuple[str, TeacherRoute | None]]


class RouteFollower:
    """Walks the routes of a run's stages; there is one model, and one anchor in it at a time.

    Args:
        teacher: The run's teacher.
        routes: The stages in order, with or without routes.

    Raises:
        FileNotFoundError: If an anchor does not exist.
        ValueError: If an anchor is not complete, or not of the teacher's architecture.
    """

    def __init__(self, teacher: LiveTeacher, routes: NamedRoutes) -> None:
        self.teacher = teacher
        self.names = [name for name, _ in routes]
        self.routes = [route for _, route in routes]
        folders = dict.fromkeys(folder for route in self.routes if route is not None for folder in route.anchors)
        #: What was found in each folder. It has to be the same when the stage comes to it, hours later.
        self.fingerprints = {folder: fingerprint(read_anchor(teacher.model, folder)) for folder in folders}
        self._chosen: list[dict[int, int]] = [{} for _ in self.routes]
        #: The weights that the teacher was given with, while it has others.
        self._given: dict[str, Tensor] | None = None
        self._here: tuple[int, int] | None = None

    @classmethod
    def of(cls, teacher: LiveTeacher | None, routes: NamedRoutes, *, cached: bool) -> RouteFollower | None:
        """Return what walks the routes of some stages; None if no stage has one.

        Args:
            teacher: The run's teacher, if it is there itself.
            routes: The stages in order, with or without routes.
            cached: Whether a cache takes its place.

        Raises:
            FileNotFoundError: If an anchor does not exist.
            ValueError: If there is no teacher to give the weights to, or an anchor is not one of it.
        """
        routed = [name for name, route in routes if route is not None]
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
        return cls(teacher, routes)

    def check_lengths(self, lengths: Sequence[int]) -> None:
        """Check that every part of every route has a step.

        Args:
            lengths: How many steps each stage has.

        Raises:
            ValueError: If one has none.
        """
        for name, route, steps in zip(self.names, self.routes, lengths, strict=True):
            if route is not None:
                try:
                    route.check_length(steps)
                except ValueError as error:
                    raise ValueError(f"stage {name!r}: {error}") from error

    def is_due(self, stage: int, done: int, steps: int) -> bool:
        """Whether the teacher needs other weights for the next step of a stage.

        Args:
            stage: Which stage, from 0.
            done: How many of its steps are done.
            steps: How many it has.
        """
        route = self.routes[stage]
        return route is not None and (stage, route.part_at(done, steps)) != self._here

    @property
    def measures(self) -> bool:
        """Whether a route asks how far the student is from its anchors."""
        return any(route is not None and route.data is not None for route in self.routes)

    def move(self, stage: int, done: int, steps: int, divergence: Callable[[Any], float]) -> dict[str, float] | None:
        """Give the teacher the anchor of the next step; return what the log says of it.

        None of an anchor that a run had begun with before it was resumed: the log has it.

        Args:
            stage: Which stage, from 0.
            done: How many of its steps are done.
            steps: How many it has.
            divergence: Measures the student's mean divergence from the teacher, as both are now, on a data set.

        Raises:
            ValueError: If the folder holds other weights than when the run began.
        """
        route = self.routes[stage]
        if route is None:
            raise RuntimeError(f"stage {self.names[stage]!r} has no route")
        part = route.part_at(done, steps)
        measured: dict[int, float] = {}

        def hardness(anchor: int) -> float:
            if anchor not in measured:
                self._load(route.anchors[anchor])
                measured[anchor] = divergence(route.data)
            return measured[anchor]

        chosen = self._chosen[stage]
        begins = part not in chosen
        resumed = not begins and self._here is None
        if begins:
            chosen[part] = route.choose(part, self._before(stage, part), hardness)
        anchor = chosen[part]
        if measured:
            logger.info("divergence of the student from the anchors %s", measured)
        self._load(route.anchors[anchor])
        self._here = stage, part
        logger.info("the teacher has the weights in %s", route.anchors[anchor])
        if resumed:
            return None
        log: dict[str, float] = {"anchor": anchor + 1}
        return {**log, "anchor_divergence": measured[anchor]} if anchor in measured else log

    def restore(self) -> bool:
        """Give the teacher its own weights back; return whether it had others."""
        self._here = None
        if self._given is None:
            return False
        self.teacher.load(self._given)
        self._given = None
        return True

    def tell_end(self, given: str) -> None:
        """Warn of a run that ends with other weights than the teacher was given with, of which this is the digest."""
        last = None if self.routes[-1] is None else self.routes[-1].anchors[-1]
        if last is not None and self.fingerprints[last] != given:
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

    def _before(self, stage: int, part: int) -> int | None:
        """Return the anchor of the part before, in this stage or in one before that had it of the same route."""
        anchors = route.anchors if (route := self.routes[stage]) is not None else ()
        for route, chosen in zip(reversed(self.routes[: stage + 1]), reversed(self._chosen[: stage + 1]), strict=True):
            if route is not None and route.anchors == anchors and part - 1 in chosen:
                return chosen[part - 1]
        return None

    def _load(self, folder: Path) -> None:
        state = read_anchor(self.teacher.model, folder)
        if fingerprint(state) != self.fingerprints[folder]:
            raise ValueError(f"the anchor {folder} was changed since the run began: it holds other weights now")
        if self._given is None:
            # On the CPU, where a copy for the time of the stage costs the device nothing.
            weights = self.teacher.model.state_dict()
            self._given = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
        self.teacher.load(state)
