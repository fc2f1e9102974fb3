"""What one batch shows of the models that are wired: the tensors that the terms name, and how they lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hf_abkd.data.table.columns import Column
from hf_abkd.layers.boundary_points import resolve_boundaries, resolve_tensors
from hf_abkd.layers.capture import Capture, CapturePoint, NotOneTensorError
from hf_abkd.layers.connection import Side
from hf_abkd.layers.layout import Layout
from hf_abkd.layers.normalized_by import normalized_by
from hf_abkd.layers.sites import Trace
from hf_abkd.models.costs import Cost, cost_of
from hf_abkd.models.kept_state import evaluating
from hf_abkd.models.lent_inputs import refuse_changes, versions
from hf_abkd.models.outputs import LOGITS
from hf_abkd.models.placement import check_readable
from hf_abkd.models.tasks.task import Task
from hf_abkd.stages.term import Names
from hf_abkd.teachers.cache.teacher_cache import TeacherCache
from hf_abkd.teachers.live import LiveTeacher
from hf_abkd.training.terms.run_term import RunTerm, Tensors
from hf_abkd.training.wiring.trial import first_run, last_layer, layouts_of


@dataclass
class Observed:
    """What one batch shows of a model, or of what was stored of a teacher.

    Args:
        points: What the names in the terms stand for.
        tensors: An example of each tensor, and of the logits.
        classes: How many classes the model has.
        overwritten: The tensors that a later operation overwrites in place.
        layouts: How the tensors lie, as far as it was found out.
        columns: The column of a cached teacher behind each name.
        head: The last layer of a teacher, where a term needs it.
        normalizations: The BatchNorm of a teacher whose output a tensor is, by name, where a term asks for it.
        cost: What the model costs; None if that is not known.
    """

    points: dict[str, CapturePoint]
    tensors: dict[str, Tensor]
    classes: int
    overwritten: set[CapturePoint] = field(default_factory=set)
    layouts: dict[str, Layout | None] = field(default_factory=dict)
    columns: dict[str, Column] = field(default_factory=dict)
    head: nn.Module | None = None
    normalizations: dict[str, nn.Module] = field(default_factory=dict)
    cost: Cost | None = None

    def sides(self, names: Sequence[str]) -> list[Side]:
        """Return what is known of some tensors."""
        return [Side(tuple(self.tensors[name].shape), self.layouts.get(name)) for name in names]

    def named(self, names: Names) -> Tensors:
        """Return the tensor of a term, or the tensors."""
        return self.tensors[names] if isinstance(names, str) else tuple(self.tensors[name] for name in names)

    def find_layouts(
        self,
        role: str,
        model: nn.Module,
        forward: Callable[[Tensor], object],
        images: Tensor,
        known: Trace | None,
    ) -> None:
        """Find out how the tensors lie."""
        found = layouts_of(role, model, self.points, forward, images, known)
        self.layouts = {name: found.get(point) for name, point in self.points.items()}


def observed_student(
    student: nn.Module, terms: Sequence[RunTerm], inputs: Mapping[str, Any], images: str, task: Task
) -> Observed:
    """Run the student on a batch."""
    task.check_inputs(student, "student", inputs[images])
    named = [(name, term) for term in terms for name in term.student_names]
    with evaluating(student), torch.no_grad():
        before = versions(inputs)
        outputs: list[Any] = []
        cost = cost_of(
            student,
            lambda: outputs.append(first_run("student", student, lambda: student(**inputs), inputs[images])),
        )
        logits = task.prediction(outputs[0], student, "student")
        refuse_changes(before, inputs, student)
        points = _points(student, named, lambda: student(**inputs))
        with Capture(student, points.values()) as capture:
            try:
                captured = capture.probe(lambda: student(**inputs))
            except NotOneTensorError as error:
                raise ValueError(str(error)) from error
    tensors = {LOGITS: logits, **{name: captured[point] for name, point in points.items()}}
    return Observed(points, tensors, logits.shape[1], capture.overwritten, cost=cost)


def observed_teacher(
    teacher: LiveTeacher,
    terms: Sequence[RunTerm],
    inputs: Mapping[str, Any],
    images: str,
    traces: tuple[Trace, Trace] | None,
) -> Observed:
    """Run a teacher on a batch, and have it select what the terms name."""
    teacher.task.check_inputs(teacher.model, "teacher", inputs[images])
    named = [(name, term) for term in terms for name in term.teacher_names]
    with torch.no_grad():
        cost = cost_of(
            teacher.model,
            lambda: first_run("teacher", teacher.model, lambda: teacher.logits(inputs), inputs[images]),
        )
        points = _points(teacher.model, named, lambda: teacher.logits(inputs))
        head = None
        if any(term.needs("teacher_head") for term in terms):
            head = last_layer(teacher.model, lambda: teacher.logits(inputs))
            check_readable(head, f"the last layer of the teacher {type(teacher.model).__name__}")
    teacher.select(points)
    asked = any("normalizations" in term.objective.asks for term in terms)
    try:
        with normalized_by(teacher.model) if asked else nullcontext(lambda _: None) as norm_behind:
            targets = teacher.probe(inputs)
    except NotOneTensorError as error:
        raise ValueError(str(error)) from error
    except RuntimeError as error:
        # Above it ran in the precision of its weights: quantised layers, for example, take float32 alone.
        raise ValueError(
            f"the teacher {type(teacher.model).__name__} cannot run a batch in the precision of this run: {error}. Set "
            'teacher_precision="fp32".'
        ) from error
    norms = {name: norm for name in points if (norm := norm_behind(targets[name])) is not None}
    for name, norm in norms.items():
        check_readable(norm, f"the BatchNorm before {name!r} of the teacher {type(teacher.model).__name__}")
    observed = Observed(points, targets, targets[LOGITS].shape[1], head=head, normalizations=norms, cost=cost)
    if connects_layers(terms):
        known = None if traces is None else traces[1]
        observed.find_layouts(
            "teacher", teacher.model, lambda pixels: teacher.logits({**inputs, images: pixels}), inputs[images], known
        )
    return observed


def observed_cache(cache: TeacherCache, terms: Sequence[RunTerm], count: int, device: torch.device) -> Observed:
    """Read what a cached teacher said of a few images, in the place of a run."""
    columns = {
        name: cache.column(name, boundary=term.objective.boundary) for term in terms for name in term.teacher_names
    }
    targets = {name: cache.example(column, count).to(device) for name, column in columns.items()}
    layouts = {name: cache.layout(column) for name, column in columns.items()}
    return Observed({}, targets, cache.classes, layouts=layouts, columns=columns)


def connects_layers(terms: Sequence[RunTerm]) -> bool:
    """Whether a connector between layers has to be chosen."""
    return any(set(term.teacher_names) - {LOGITS} and term.connector_kind is not None for term in terms)


def has_exits(terms: Sequence[RunTerm]) -> bool:
    """Whether an exit has to be made: from a layer of the student to what is compared with the teacher's logits."""
    return any(
        LOGITS not in term.student_names and term.teacher == LOGITS and term.connector_kind == "auto" for term in terms
    )


def _points(
    model: nn.Module, named: Sequence[tuple[str, RunTerm]], forward: Callable[[], object]
) -> dict[str, CapturePoint]:
    boundaries = [name for name, term in named if name != LOGITS and term.is_before_activation]
    tensors = [name for name, term in named if name != LOGITS and not term.is_before_activation]
    points = resolve_boundaries(model, boundaries, forward)
    for name, point in resolve_tensors(model, tensors, forward).items():
        if points.setdefault(name, point) != point:
            raise ValueError(
                f"{name!r} is a boundary in one term and a plain output in another; write '{name}:output' in the latter"
            )
    return points
