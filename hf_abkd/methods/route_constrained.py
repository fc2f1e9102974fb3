"""Route constrained optimisation: learn from the teacher's own checkpoints, easy to hard, to the converged one.

Paper: Jin et al., ICCV 2019, https://huggingface.co/papers/1904.09149
What differs from the paper is told at `route_constrained`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

from hf_abkd.objectives import CrossEntropy, KnowledgeDistillation
from hf_abkd.settings import number, whole_number
from hf_abkd.stages.stage import Stage
from hf_abkd.stages.term import Term
from hf_abkd.teachers.route.route import Hardness, TeacherRoute

PathT = TypeVar("PathT", bound="str | os.PathLike[str]")


def route_constrained(
    anchors: Sequence[str | os.PathLike[str]] | TeacherRoute,
    *,
    stages: Sequence[Stage] | None = None,
    shares: Sequence[float] | None = None,
    restart: bool = False,
) -> list[Stage]:
    """Return the stages of Jin et al.: the student learns from the first anchor, then, keeping its weights, the next.

    The anchors are checkpoints of the teacher's training, and the last is the converged teacher, which is also the
    `teacher` of the trainer. Whatever number of steps there is, every anchor gets its share of them.

    Paper: Jin et al., ICCV 2019, https://huggingface.co/papers/1904.09149
    Differs: what is learnt from an anchor, the length of the parts and the learning rate are settings here; the
        defaults are those of `knowledge_distillation` and a single schedule, so that the two are compared on equal
        terms.

    Args:
        anchors: Folders with the weights of the teacher on its way (see `hf_abkd.teachers.route.anchors.anchors_in`,
            `fetch_anchors` and `equal_interval`), or a route that chooses among them (`GreedyRoute`).
        stages: What is learnt from each anchor: every stage goes the whole route. By default one stage of knowledge
            distillation (temperature 4, weights 0.9 and 0.1 with the labels). `activation_boundary()` is as possible;
            connectors go on from anchor to anchor.
        shares: How a stage divides over the anchors; evenly by default.
        restart: False keeps one optimiser and one learning rate schedule over all anchors of a stage, as in training
            from the last anchor alone: with equal anchors the run is bit by bit the same. True makes a stage of
            every anchor, with a fresh optimiser and the whole schedule for each.

    Raises:
        TypeError: If `anchors` is a single name.
        ValueError: If there are fewer than two, one stands there twice in succession, or `shares` are not possible.

    Example:
        ```python
        anchors = anchors_in("teacher/route")
        stages = route_constrained(anchors)
        DistillationTrainer(student, args, teacher=converged, stages=stages, train_dataset=images).train()
        ```
    """
    route = anchors if isinstance(anchors, TeacherRoute) else TeacherRoute(anchors, shares=shares)
    if route is anchors and shares is not None:
        raise ValueError("a route has its shares already: give them to it, and not to route_constrained")
    if len(route.anchors) < 2:
        raise ValueError(
            f"a route needs at least two anchors, got {[str(anchor) for anchor in route.anchors]}; what is learnt "
            "from one set of weights is knowledge_distillation()"
        )
    if len(set(route.anchors)) < len(route.anchors):
        raise ValueError(f"an anchor stands in the route twice: {[str(anchor) for anchor in route.anchors]}")
    if stages is None:
        terms = [Term(KnowledgeDistillation(temperature=4.0), weight=0.9), Term(CrossEntropy(), weight=0.1)]
        stages = [Stage(terms=terms, name="route")]
    if taken := [stage.name for stage in stages if stage.route is not None]:
        raise ValueError(f"the stages {taken} have weights for the teacher already")
    if not restart:
        return [replace(stage, teacher=route) for stage in stages]
    return [
        part for stage, length in zip(stages, _lengths(stages), strict=True) for part in _parts(stage, length, route)
    ]


class GreedyRoute(TeacherRoute):
    """A route that takes the furthest anchors that are not too hard for the student; a choice of this package.

    The first part is learnt from the first anchor and the last part from the last. When another part begins, the
    hardness of each later anchor is measured: the mean Kullback-Leibler divergence of the student, as it is then, from
    the anchor. The furthest one is taken that is at most `delta` times as hard as the anchor of the part before, or
    the next one if there is none. The published criterion was not at hand: this one is not the paper's.

    Args:
        anchors: All checkpoints, in the order of training.
        data: What hardness is measured on: a data set prepared like the training set, of images that the run neither
            trains nor is evaluated on. It needs no labels.
        parts: How many parts the stage has: how many anchors are used at most, as the last one may be reached early.
        delta: How many times as hard as the one before an anchor may be.
        shares: How the stage divides over the parts; evenly by default.

    Raises:
        ValueError: If a setting is not possible.

    Example:
        ```python
        stages = route_constrained(GreedyRoute(anchors_in("teacher/route"), held_out, parts=4))
        ```
    """

    def __init__(
        self,
        anchors: Sequence[str | os.PathLike[str]],
        data: Any,
        *,
        parts: int = 4,
        delta: float = 1.5,
        shares: Sequence[float] | None = None,
    ) -> None:
        self.parts, self.delta, self.data = whole_number("parts", parts, least=2), number("delta", delta, least=1), data
        super().__init__(anchors, shares=[1 / self.parts] * self.parts if shares is None else shares)

    def _check_parts(self) -> None:
        if len(self.shares) != self.parts:
            raise ValueError(f"{self.parts} parts need as many shares, got {len(self.shares)}")

    def choose(self, part: int, before: int | None, hardness: Hardness) -> int:
        """Return the furthest anchor that is not too hard; see the class."""
        last = len(self.anchors) - 1
        if part == self.parts - 1 or before == last:
            return last
        if before is None:
            return 0
        limit = self.delta * hardness(before)
        return max((anchor for anchor in range(before + 1, last + 1) if hardness(anchor) <= limit), default=before + 1)

    def describe(self) -> str:
        """Return what defines the route besides its weights."""
        return f"{super().describe()}, the furthest of at most {self.delta:g} times the hardness"


def equal_interval(anchors: Sequence[PathT], *, count: int | None = None, every: int | None = None) -> list[PathT]:
    """Return some of a teacher's checkpoints at equal intervals; the last one is always among them.

    Args:
        anchors: All of them, in the order of training and equally far apart.
        count: How many.
        every: Or every how many; the last interval may be shorter.

    Raises:
        ValueError: If not one of the two is given, or there are too few checkpoints.

    Example:
        >>> equal_interval(["checkpoint-1", "checkpoint-2", "checkpoint-3", "checkpoint-4"], count=2)
        ['checkpoint-2', 'checkpoint-4']
    """
    if (count is None) == (every is None):
        raise ValueError("give either count (how many anchors) or every (each how many checkpoints)")
    total = len(anchors)
    if count is not None:
        count = whole_number("count", count, least=1, most=total)
        places = [(number * total + count - 1) // count - 1 for number in range(1, count + 1)]
    else:
        every = whole_number("every", every, least=1, most=total)
        places = list(dict.fromkeys([*range(every - 1, total, every), total - 1]))
    return [anchors[place] for place in places]


def _lengths(stages: Sequence[Stage]) -> list[Stage]:
    """Return the stages with a length each, so that it can be divided."""
    open_ended = [stage for stage in stages if (stage.share, stage.epochs, stage.steps) == (None, None, None)]
    if not open_ended:
        return list(stages)
    if fixed := [stage.name for stage in stages if stage.epochs is not None or stage.steps is not None]:
        raise ValueError(
            f"with restart=True every stage is divided, and how long {[stage.name for stage in open_ended]} are is "
            f"not known, as {fixed} have a length of their own: give all of them one, in shares, epochs or steps"
        )
    left = 1 - sum(stage.share or 0 for stage in stages)
    if left <= 0:
        raise ValueError(f"the shares of the stages leave nothing for {[stage.name for stage in open_ended]}")
    return [replace(stage, share=left / len(open_ended)) if stage in open_ended else stage for stage in stages]


def _parts(stage: Stage, length: Stage, route: TeacherRoute) -> list[Stage]:
    """Return one stage for each part of the route."""
    parts, done, before = [], 0.0, 0
    for part, share in enumerate(route.shares):
        done += share
        steps = None
        if length.steps is not None:
            after = length.steps if part == len(route.shares) - 1 else round(done * length.steps)
            steps, before = after - before, after
            if steps < 1:
                raise ValueError(
                    f"{length.steps} steps of stage {stage.name!r} are too few for {len(route.shares)} parts"
                )
        parts.append(
            replace(
                stage,
                name=f"{stage.name} {part + 1}/{len(route.shares)}".strip(),
                share=None if length.share is None else length.share * share,
                epochs=None if length.epochs is None else length.epochs * share,
                steps=steps,
                teacher=route.only(part),
            )
        )
    return parts
