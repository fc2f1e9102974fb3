"""Values: what stands in a recipe for each class of this package."""

from __future__ import annotations

from functools import cache
from typing import Any, ForwardRef

from hf_abkd.layers.plan import Plan
from hf_abkd.objectives import Objective
from hf_abkd.recipes.annotations import chosen_by
from hf_abkd.recipes.derived import part_of
from hf_abkd.recipes.names import augmentation_names, schedule_names
from hf_abkd.recipes.part import Part
from hf_abkd.recipes.plan_parts import PlanPart
from hf_abkd.recipes.stage_parts import RouteBase, extension_value, stage_part
from hf_abkd.recipes.term_parts import objective_value, term_value
from hf_abkd.stages.extension import Extension
from hf_abkd.stages.schedules import Schedule
from hf_abkd.stages.stage import Stage
from hf_abkd.stages.term import PairedTerms, Term
from hf_abkd.teachers.route.route import TeacherRoute


@cache
def known(kind: type) -> Any:
    """Return the type that pydantic checks where a value of a class stands.

    A class that is not told here is written as the mapping of its settings.
    """
    if kind is Schedule:
        return _schedule_value()
    if kind is Objective:
        return objective_value(known)
    if kind in (Term, PairedTerms):
        return _term_value()
    if kind is Stage:
        return stage_part(known, _term_value())
    if kind is Extension:
        return extension_value(known)
    if kind is Plan:
        return PlanPart
    if kind is TeacherRoute:
        return part_of(TeacherRoute, known, base=RouteBase)
    return part_of(kind, known)


@cache
def augmentation_value() -> Any:
    """Return the schema of an augmentation."""
    return chosen_by(
        "name", {name: part_of(kind, known, tag=("name", name)) for name, kind in augmentation_names().items()}
    )


@cache
def _term_value() -> Any:
    return term_value(known)


@cache
def _schedule_value() -> Any:
    """Return the schema of a schedule, some of which are made of others."""
    itself = ForwardRef("ScheduleValue")
    parts: dict[str, type[Part]] = {
        name: part_of(kind, lambda _: itself, tag=("schedule", name)) for name, kind in schedule_names().items()
    }
    value = chosen_by("schedule", parts)
    for part in parts.values():
        part.model_rebuild(_types_namespace={"ScheduleValue": value})
    return value
