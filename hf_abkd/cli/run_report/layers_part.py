"""The part of a report on layers: units that never respond, and how far responses lie from their boundary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hf_abkd.cli.asking import AskedModel, Asking
from hf_abkd.cli.run_report.asked import Asked, AskedRun
from hf_abkd.cli.run_report.layer_names import short_layers
from hf_abkd.layers.layer_pair import LayerPair, PlannedTensor
from hf_abkd.layers.plan import PLAN_NAME, Plan
from hf_abkd.layers.unit_activity import UnitActivity, unit_activity
from hf_abkd.models.expected_images import PIXELS
from hf_abkd.reports.figures.bars import bars
from hf_abkd.reports.figures.margins import margins
from hf_abkd.reports.page.parts import Part, Picture, Section
from hf_abkd.teachers.cache.teacher_images import spread_places
from hf_abkd.teachers.live import LiveTeacher
from hf_abkd.wording import listed

_TITLE = "Units and their boundaries"
_IMAGES = 512
_TEACHER = "teacher"

_DEAD = (
    "A dead unit is below its activation boundary everywhere in all of these images: it tells nothing. Behind each "
    "bar: how many units are dead, of how many."
)
# With these a layer is compared as it is where both tensors have one shape.
_NO_CONNECTOR = ("auto", "identity")
_TOWARD = (
    "The same distances counted toward the side on which the teacher's unit is at that place of that image: left of "
    "the dashed line the student's unit is on the other side than the teacher's."
)
_HOW_TO_READ = (
    "Margins tell how far responses before an activation lie from its boundary, in standard deviations of the layer: "
    "right of the dashed line a unit is on, and near it a small change switches it. What lies beyond 4 is counted at "
    "the edge."
)

Activities = Mapping[str, UnitActivity]


def layers_section(asked: Asked) -> Section:
    """Return the dead units and the margins of the paired layers, of the first run of each model.

    Args:
        asked: The models and the images.
    """
    ordered = sorted(asked.runs, key=lambda one: one.run.seed)
    first: dict[str, AskedRun] = {}
    for one in ordered:
        first.setdefault(one.run.model, one)
    plans = {model: _plan(one) for model, one in first.items()}
    plan = next((found for found in plans.values() if found is not None), None)
    if plan is None:
        return Section(_TITLE, [f"No run pairs layers: none of the folders has a {PLAN_NAME}."])
    # A student that learned alone has the layers of its brothers.
    asks = {model: (one.model, [pair.student for pair in (plans[model] or plan).pairs]) for model, one in first.items()}
    if asked.teacher is not None:
        asks[_TEACHER] = asked.teacher, [pair.teacher for pair in plan.pairs]
    found: dict[str, Activities] = {}
    parts: list[Part] = []
    for name, (model, layers) in asks.items():
        try:
            found[name] = _activity(model, layers, asked.asking)
        except ValueError as error:
            parts.append(f"{name}: its layers are not those of the plan. {error}")
    teacher = found.pop(_TEACHER, None)
    named = {pair.student.layer: pair.teacher.layer for pair in plan.pairs}
    seeds = "; ".join(f"{model} (seed {one.run.seed})" for model, one in first.items())
    parts.append(f"Of each model the run with the first seed: {seeds}. Measured on {_images(asked.asking)} images.")
    parts += _dead(found, teacher, named)
    drawn = [_margin(found, teacher, *pair, number) for number, pair in enumerate(named.items())]
    if pictures := [picture for picture in drawn if picture is not None]:
        parts += [_HOW_TO_READ, pictures]
    if teacher is not None:
        parts += _toward_teacher(found, teacher, plan.pairs)
    return Section(_TITLE, parts)


def _images(asking: Asking) -> int:
    """Return on how many images the units of the layers are watched."""
    return min(_IMAGES, len(asking.images.rows))


def _plan(one: AskedRun) -> Plan | None:
    path = one.run.folder / PLAN_NAME
    return Plan.load(path) if path.is_file() else None


def _activity(asked: AskedModel, layers: Sequence[PlannedTensor], asking: Asking) -> dict[str, UnitActivity]:
    """Return how the units of some layers respond to some of the images."""
    orders = {one.layer: None if one.layout is None else one.layout.order for one in layers}
    places = spread_places(len(asking.images.rows), _images(asking))
    runner = LiveTeacher(asked.model.to(asking.device))
    try:
        return unit_activity(
            asked.model,
            orders,
            lambda pixels: runner.logits({PIXELS: pixels}),
            asking.pixels(asked, places, asking.batch_size),
        )
    finally:
        asked.model.cpu()


def _dead(students: Mapping[str, Activities], teacher: Activities | None, layers: Mapping[str, str]) -> list[Part]:
    """Return the picture of units that never respond, or a sentence where there are none."""
    names = list(layers)
    shares = {
        model: [[100 * found[layer].dead_share] for layer in names]
        for model, found in students.items()
        if all(layer in found for layer in names)
    }
    if teacher is not None:
        shares[_TEACHER] = [[100 * teacher[layers[layer]].dead_share] for layer in names]
    most = max((number for numbers in shares.values() for (number,) in numbers), default=None)
    if not most:
        return [] if most is None else ["No unit of these layers is dead: each is above its boundary for some image."]
    of_models = ((model, students[model]) for model in shares if model in students)
    counts = {model: [_dead_of(found[layer]) for layer in names] for model, found in of_models}
    if teacher is not None:
        counts[_TEACHER] = [_dead_of(teacher[layers[layer]]) for layer in names]
    short = short_layers(names)
    drawn = bars([short[layer] for layer in names], shares, "dead units (%)", told=counts)
    alt = f"Bars of the share of dead units in each layer; the largest is {most:.1f} %."
    return [[Picture("dead-units", "Dead units", drawn, alt, _DEAD)]]


def _dead_of(activity: UnitActivity) -> str:
    """Return how many units are dead, of how many: a share of few units moves by much with each."""
    return f"{int((~activity.on).sum()):,} of {len(activity.on):,}"


def _toward_teacher(
    students: Mapping[str, Activities], teacher: Activities, pairs: Sequence[LayerPair]
) -> Iterator[Part]:
    """Return the pictures of how far units are on the teacher's side, of the layers that were compared as they are."""
    pictures, without = [], []
    for number, pair in enumerate(pairs):
        layer, as_they_are = pair.student.layer, pair.connector_name in _NO_CONNECTOR
        found = {
            model: toward
            for model, activities in students.items()
            if as_they_are
            and pair.student.layout == pair.teacher.layout
            and layer in activities
            and (toward := activities[layer].toward(teacher[pair.teacher.layer])) is not None
        }
        if not found:
            without.append(layer)
            continue
        told = f"On the teacher's side: {'; '.join(f'{name} {_above(values)}' for name, values in found.items())}."
        drawn = margins(found, "distance toward the teacher's side (deviations)")
        alt = f"Distributions of responses of {layer} toward the side of the teacher's. {told}"
        pictures.append(Picture(f"toward-{number}", f"Toward the teacher's side: {layer}", drawn, alt, told))
    if pictures:
        yield _TOWARD
        yield pictures
    if without:
        yield (
            f"Of {listed(without)} it is not known on which side of the teacher's boundaries its units are: they were "
            "compared behind a connector, which is trained with the student and not kept."
        )


def _above(values: NDArray[np.floating]) -> str:
    return f"{100 * float((values > 0).mean()):.0f}\N{NO-BREAK SPACE}%"


def _margin(
    students: Mapping[str, Activities], teacher: Activities | None, layer: str, taught: str, number: int
) -> Picture | None:
    """Return the picture of the responses of a pair of layers; None if no student has the layer."""
    responses = {model: found[layer].deviations() for model, found in students.items() if layer in found}
    if not responses:
        return None
    if teacher is not None:
        responses[_TEACHER] = teacher[taught].deviations()
    above = [f"{name} {_above(values)}" for name, values in responses.items()]
    told = f"Above the boundary: {'; '.join(above)}."
    caption = f"Paired with the teacher's {taught}. {told}"
    alt = f"Distributions of responses around the boundary of {layer}. {told}"
    return Picture(f"margins-{number}", f"Margins: {layer}", margins(responses), alt, caption)
