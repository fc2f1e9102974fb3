"""Pairing: which layers of two models belong together, from what one forward pass of each shows."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from hf_abkd.layers.sites import Site, Trace

MOST_PAIRS = 4
# Before this share of the layers a model only prepares the image.
_STEM = 0.1
# Last layers further apart than this share of the depth have nothing in common (of a Perceiver only the stem is a map).
_FAR = 0.5
# A teacher whose last paired layer lies before this share of its layers teaches little of what it knows.
_SHALLOW = 0.5

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SitePair:
    """Two activations at about the same depth, on about the same grid.

    Args:
        student: The student's.
        teacher: The teacher's.
    """

    student: Site
    teacher: Site

    @property
    def grid_ratio(self) -> float:
        """How much finer the finer grid is, as a ratio of lengths; 1 for equal grids."""
        return math.pow(2, abs(_scale(self.student) - _scale(self.teacher)))

    @property
    def depth_difference(self) -> float:
        """The difference of the relative depths, from 0 to 1."""
        return abs(self.student.depth - self.teacher.depth)


def propose(student: Trace, teacher: Trace, *, most: int = MOST_PAIRS) -> list[SitePair]:
    """Return up to `most` pairs of activations, from the input of the models to their output.

    Layers on equal grids are a stage. Stages are paired with stages so that grids and depths fit best, the last ones
    with each other; a model with one grid (a ViT) gives the layers whose relative depth fits. Of a stage, the
    last activation of its second half is taken, block outputs before activations inside a block.

    Args:
        student: What a forward pass of the student showed.
        teacher: What a forward pass of the teacher showed.
        most: The largest number of pairs.

    Raises:
        ValueError: If one of them shows no activation on a grid over the image.
    """
    student_stages, teacher_stages = _stages(student, "student"), _stages(teacher, "teacher")
    student_sites, teacher_sites = (
        _blocks(stages[0]) if len(stages) == 1 else [stage_tap(stage) for stage in stages]
        for stages in (student_stages, teacher_stages)
    )
    if len(student_stages) == len(teacher_stages) == 1:
        # Without stages, evenly spaced layers of the shallower model stand for its depth.
        count = min(most, len(student_sites), len(teacher_sites))
        if len(student_sites) <= len(teacher_sites):
            student_sites = _spread(student_sites, count)
        else:
            teacher_sites = _spread(teacher_sites, count)
    pairs = [SitePair(*pair) for pair in _assign(student_sites, teacher_sites, most)]
    if pairs and pairs[-1].teacher.depth < _SHALLOW:
        logger.warning("%s", _shallow(pairs[-1].teacher, teacher))
    return pairs


def _shallow(last: Site, trace: Trace) -> str:
    """Return what to tell of a teacher of whose later layers none is paired."""
    at = trace.sites.index(last)
    later = [f"{site.module}: {site.left_out}" for site in trace.sites[at + 1 :] if site.left_out][:2]
    why = f" Of later activations: {'; '.join(later)}." if later else " No later activation was seen."
    return (
        f"the last layer of the teacher that is paired, {last.module!r}, lies at {last.depth:.0%} of its depth, so the "
        f"student's layers learn hardly more than its beginning.{why} Name later responses yourself, with ':input' or "
        "':output' behind the name of a module or call."
    )


def stage_tap(stage: Sequence[Site]) -> Site:
    """Return the activation that stands for a stage: the last of the outermost ones in its second half."""
    middle = (stage[0].depth + stage[-1].depth) / 2
    late = [site for site in stage if site.depth >= middle]
    outermost = min(_nesting(site) for site in late)
    return [site for site in late if _nesting(site) == outermost][-1]


def _stages(trace: Trace, role: str) -> list[list[Site]]:
    """Return the usable activations by grid, in order, without what only prepares the image."""
    usable = [site for site in trace.sites if not site.left_out]
    if not usable:
        raise ValueError(f"no layers of the {role} can be paired: {_why_none(trace)}")
    # A grid that comes back (a decoder, a block between two resolutions) is no stage of its own.
    stages: dict[tuple[int, int], list[Site]] = {}
    for site in usable:
        stages.setdefault(_grid(site), []).append(site)
    result = list(stages.values())
    while len(result) > 3 and result[0][-1].depth < _STEM:
        result = result[1:]
    return result


def _why_none(trace: Trace) -> str:
    """Return why a model has no layers to pair, and what to do about it."""
    if not trace.sites:
        return "it calls no activations. Name layers with ':input' or ':output' yourself."
    reasons = [f"{site.module}: {site.left_out}" for site in trace.sites[:3]]
    return f"of its {len(trace.sites)} activations none can be used ({'; '.join(reasons)}). Name layers yourself."


def _blocks(layers: Sequence[Site]) -> list[Site]:
    """Return the outermost activations: one or a few for each block."""
    outermost = min(_nesting(site) for site in layers if site.depth >= layers[-1].depth / 2)
    return [site for site in layers if _nesting(site) <= outermost]


def _spread(layers: Sequence[Site], count: int) -> list[Site]:
    """Return evenly spaced layers, the last one included."""
    return [layers[math.ceil(len(layers) * number / count) - 1] for number in range(1, count + 1)]


def _assign(ours: Sequence[Site], theirs: Sequence[Site], most: int) -> list[tuple[Site, Site]]:
    """Pair sites in order, by the cheapest of all ways to leave some out."""

    @cache
    def cheapest(first: int, second: int, count: int) -> tuple[float, tuple[tuple[Site, Site], ...]]:
        """Return the cost and the pairs of `count` of the first sites of both."""
        if count == 0:
            return 0.0, ()
        if min(first, second) < count:
            return math.inf, ()
        pair = ours[first - 1], theirs[second - 1]
        cost, pairs = cheapest(first - 1, second - 1, count - 1)
        ways = [
            (cost + _cost(*pair), (*pairs, pair)),
            cheapest(first - 1, second, count),
            cheapest(first, second - 1, count),
        ]
        return min(ways, key=lambda way: way[0])

    count = min(most, len(ours), len(theirs))
    if abs(ours[-1].depth - theirs[-1].depth) > _FAR:
        return list(cheapest(len(ours), len(theirs), count)[1])
    # What the classifiers read is worth most.
    return [*cheapest(len(ours) - 1, len(theirs) - 1, count - 1)[1], (ours[-1], theirs[-1])]


def _cost(student: Site, teacher: Site) -> float:
    distance = abs(_scale(student) - _scale(teacher)) + 2 * abs(student.depth - teacher.depth)
    # Of similar fits the deeper one.
    return distance - student.depth - teacher.depth


def _grid(site: Site) -> tuple[int, int]:
    if site.layout is None or site.layout.grid is None:
        raise ValueError(f"{site.module} lies on no grid")
    return site.layout.grid


def _scale(site: Site) -> float:
    return math.log2(math.prod(_grid(site))) / 2


def _nesting(site: Site) -> int:
    """Return how deep in the modules an activation lies; a call lies in the module that makes it."""
    return site.module.lstrip(":").replace(":", ".").count(".")
