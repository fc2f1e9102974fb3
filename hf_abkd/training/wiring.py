"""Wiring: from the names in the terms to tensors and connectors, on one batch, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hf_abkd.layers.capture import Capture, CapturePoint, parse_name, resolve_boundaries
from hf_abkd.layers.connection import Side
from hf_abkd.layers.layout import Layout
from hf_abkd.layers.pairing import propose
from hf_abkd.layers.plan import Plan
from hf_abkd.layers.tracing import Trace
from hf_abkd.models.kept_state import evaluating, leaving_no_trace
from hf_abkd.models.label_spaces import LabelMatch, label_match
from hf_abkd.models.outputs import LOGITS, logits_of
from hf_abkd.stages.term import Names, Term
from hf_abkd.teachers.cache.table import Column
from hf_abkd.teachers.cache.teacher_cache import TeacherCache
from hf_abkd.teachers.live import LiveTeacher
from hf_abkd.training.distiller import Distiller
from hf_abkd.training.joint_distiller import JointDistiller
from hf_abkd.training.run_term import RunTerm, Tensors
from hf_abkd.training.trial import check_channels, first_run, last_layer, layouts_of, other_size, trace_model


@dataclass(frozen=True)
class Wiring:
    """What the names in the terms of a run stand for.

    Args:
        student: The tensor of the student behind each name.
        teacher: The tensor of the teacher behind each name.
        overwritten: The tensors of the student that a later operation overwrites in place.
        labels: Which classes of the teacher are which of the student's; None without a teacher.
        cached: The column of a cached teacher behind each name.
    """

    student: dict[str, CapturePoint]
    teacher: dict[str, CapturePoint]
    overwritten: set[CapturePoint]
    labels: LabelMatch | None = None
    cached: dict[str, Column] = field(default_factory=dict)

    def columns(self, terms: Sequence[RunTerm]) -> dict[str, Column]:
        """Return the columns of a cached teacher that these terms need."""
        needed = teacher_names(terms)
        return {name: column for name, column in self.cached.items() if name in needed}

    def teacher_points(self, terms: Sequence[RunTerm]) -> dict[str, CapturePoint]:
        """Return the tensors of the teacher that these terms need besides its logits."""
        needed = teacher_names(terms)
        return {name: point for name, point in self.teacher.items() if name in needed}


def check_names(student: nn.Module, teacher: nn.Module | TeacherCache | None, terms: Sequence[Term | RunTerm]) -> None:
    """Check that every module named in the terms exists; needs no data.

    Raises:
        ValueError: If a name is wrong, a term needs a teacher and there is none, or one that was cached without it.
    """
    for term in terms:
        for name in term.student_names:
            if name != LOGITS:
                parse_name(student, name)
        if not term.wants_teacher:
            continue
        if teacher is None:
            raise ValueError(f"term {term.name!r} compares with a teacher, and `teacher` is None")
        if isinstance(teacher, TeacherCache) and "teacher_head" in term.objective.needs:
            raise ValueError(
                f"term {term.name!r} needs the teacher's last layer, and a cache holds only what the teacher said. "
                "Pass the teacher itself."
            )
        for name in term.teacher_names:
            if isinstance(teacher, TeacherCache):
                teacher.column(name, boundary=term.objective.boundary, reader=f"term {term.name!r}")
            elif name != LOGITS:
                parse_name(teacher, name)


def teacher_names(terms: Iterable[Term | RunTerm]) -> set[str]:
    """Return the tensors of the teacher that some terms compare with, the logits among them."""
    return {name for term in terms for name in term.teacher_names}


def propose_plan(
    student: nn.Module,
    teacher: LiveTeacher | TeacherCache,
    inputs: Mapping[str, Any],
    teacher_inputs: Mapping[str, Any],
    images: str,
) -> tuple[Plan, tuple[Trace, Trace]]:
    """Return the pairs of layers that suit two models, and the traces of both that they come from.

    Args:
        student: The student.
        teacher: The teacher; of one that was cached, the layers that were stored.
        inputs: A batch for the student, without labels.
        teacher_inputs: The same images for the teacher.
        images: The name of the images in it: "pixel_values".

    Raises:
        ValueError: If a model cannot run the batch, or has no layers that can be paired.
    """
    ours = trace_model("student", student, lambda pixels: student(**{**inputs, images: pixels}), inputs[images])
    if isinstance(teacher, TeacherCache):
        theirs = teacher.trace
    else:
        theirs = trace_model(
            "teacher",
            teacher.model,
            lambda pixels: teacher.logits({**teacher_inputs, images: pixels}),
            teacher_inputs[images],
        )
    return Plan.of_sites(propose(ours, theirs)), (ours, theirs)


def wire(
    student: nn.Module,
    teacher: LiveTeacher | TeacherCache | None,
    terms: Sequence[RunTerm],
    inputs: Mapping[str, Any],
    teacher_inputs: Mapping[str, Any] | None = None,
    images: str = "pixel_values",
    traces: tuple[Trace, Trace] | None = None,
) -> Wiring:
    """Find the tensors that the terms name, and make their connectors on the device of the student.

    Runs both models on one batch, in eval mode and without gradients.

    Args:
        student: The student.
        teacher: The teacher, if a term needs one.
        terms: The terms of all stages.
        inputs: A batch for the student, without labels.
        teacher_inputs: The same images for the teacher; by default those of the student.
        images: The name of the images in the batch.
        traces: What a forward pass of student and teacher showed, if that is known already.

    Raises:
        ValueError: If a name, an image size or a pair of shapes is not possible, or a model cannot run the batch.
    """
    ours = _run_student(student, terms, inputs, images)
    device = ours.tensors[LOGITS].device
    for term in terms:
        if not term.wants_teacher:
            term.connect(ours.sides(term.student_names))
            term.to(device)
    if teacher is None:
        return Wiring(ours.points, {}, ours.overwritten)
    if isinstance(teacher, TeacherCache):
        theirs = _read_cache(teacher, terms, len(ours.tensors[LOGITS]), device)
    else:
        theirs = _run_teacher(teacher, terms, inputs if teacher_inputs is None else teacher_inputs, images, traces)
    if _connects_layers(terms):
        known = None if traces is None else traces[0]
        ours.find_layouts(
            "student", student, lambda pixels: student(**{**inputs, images: pixels}), inputs[images], known
        )
    labels = label_match(
        student,
        teacher if isinstance(teacher, TeacherCache) else teacher.model,
        ours.tensors[LOGITS].shape[1],
        theirs.classes,
    )
    for term in terms:
        if term.wants_teacher:
            _connect(term, ours, theirs, labels)
            term.to(device)
            _try_out(term, ours, theirs)
    return Wiring(ours.points, theirs.points, ours.overwritten, labels, theirs.columns)


@dataclass
class _Observed:
    """What one batch shows of a model.

    Args:
        points: What the names in the terms stand for.
        tensors: An example of each tensor, and of the logits.
        classes: How many classes the model has.
        overwritten: The tensors that a later operation overwrites in place.
        layouts: How the tensors lie, as far as it was found out.
        columns: The column of a cached teacher behind each name.
        head: The last layer of a teacher, where a term needs it.
    """

    points: dict[str, CapturePoint]
    tensors: dict[str, Tensor]
    classes: int
    overwritten: set[CapturePoint] = field(default_factory=set)
    layouts: dict[str, Layout | None] = field(default_factory=dict)
    columns: dict[str, Column] = field(default_factory=dict)
    head: nn.Module | None = None

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


def _run_student(student: nn.Module, terms: Sequence[RunTerm], inputs: Mapping[str, Any], images: str) -> _Observed:
    check_channels(student, "student", inputs[images])
    named = [(name, term) for term in terms for name in term.student_names]
    with evaluating(student), torch.no_grad():
        logits = logits_of(first_run("student", student, lambda: student(**inputs)), student, "student")
        points = _points(student, named, lambda: student(**inputs))
        with Capture(student, points.values()) as capture:
            captured = capture.probe(lambda: student(**inputs))
    tensors = {LOGITS: logits, **{name: captured[point] for name, point in points.items()}}
    return _Observed(points, tensors, logits.shape[1], capture.overwritten)


def _run_teacher(
    teacher: LiveTeacher,
    terms: Sequence[RunTerm],
    inputs: Mapping[str, Any],
    images: str,
    traces: tuple[Trace, Trace] | None,
) -> _Observed:
    check_channels(teacher.model, "teacher", inputs[images])
    hint = other_size(teacher.model, inputs[images])
    named = [(name, term) for term in terms for name in term.teacher_names]
    with torch.no_grad():
        try:
            first_run("teacher", teacher.model, lambda: teacher.logits(inputs))
        except ValueError as error:
            raise ValueError(f"{error} {hint or ''}".rstrip()) from error
        points = _points(teacher.model, named, lambda: teacher.logits(inputs))
        head = None
        if any(term.needs("teacher_head") for term in terms):
            head = last_layer(teacher.model, lambda: teacher.logits(inputs))
    teacher.select(points)
    targets = teacher.probe(inputs)
    observed = _Observed(points, targets, targets[LOGITS].shape[1], head=head)
    if _connects_layers(terms):
        known = None if traces is None else traces[1]
        observed.find_layouts(
            "teacher", teacher.model, lambda pixels: teacher.logits({**inputs, images: pixels}), inputs[images], known
        )
    return observed


def _read_cache(cache: TeacherCache, terms: Sequence[RunTerm], count: int, device: torch.device) -> _Observed:
    columns = {
        name: cache.column(name, boundary=term.objective.boundary) for term in terms for name in term.teacher_names
    }
    targets = {name: cache.example(column, count).to(device) for name, column in columns.items()}
    layouts = {name: cache.layout(column) for name, column in columns.items()}
    return _Observed({}, targets, cache.classes, layouts=layouts, columns=columns)


def _connects_layers(terms: Sequence[RunTerm]) -> bool:
    """Whether a connector between layers has to be chosen."""
    return any(set(term.teacher_names) - {LOGITS} and term.connector_kind is not None for term in terms)


def _connect(term: RunTerm, student: _Observed, teacher: _Observed, labels: LabelMatch) -> None:
    """Make the connector of a term that compares with a teacher."""
    if term.compares_logits and term.connector_kind == "auto":
        labels.check_logits(term.name)
        if labels.kind not in ("same", "assumed"):
            term.connect_classes(labels.student_classes, labels.teacher_classes)
    term.connect(student.sides(term.student_names), teacher.sides(term.teacher_names))
    if term.needs("teacher_head") and teacher.head is not None:
        term.give_head(teacher.head)


def _try_out(term: RunTerm, student: _Observed, teacher: _Observed) -> None:
    """Run a term on the example, so that a connector that does not fit fails here and by its name."""
    given = student.named(term.student)
    first = given if isinstance(given, Tensor) else given[0]
    # Numbers of any value will do: only the shapes are tried out.
    numbers = torch.zeros(len(first), dtype=torch.long, device=first.device)
    needed: dict[str, Tensors] = {name: numbers for name in ("labels", "domains", "sample_ids") if term.needs(name)}
    if term.teacher is not None:
        needed["teacher"] = teacher.named(term.teacher)
    # An objective may keep statistics of what it saw.
    with leaving_no_trace(term), evaluating(term), torch.no_grad():
        try:
            term(term.adapt(given), **term.formed(needed))
        except RuntimeError as error:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in ([given] if isinstance(given, Tensor) else given))
            raise ValueError(
                f"the connector of term {term.name!r} ({term.term.pair}) cannot take {shapes}: {error}"
            ) from error


def unreached(
    distiller: Distiller | JointDistiller,
    inputs: Mapping[str, Any],
    targets: Mapping[str, Any],
    labels: Tensor | None,
    rows: Mapping[str, slice] | None = None,
    samples: Tensor | None = None,
) -> set[str]:
    """Return the names of the trainable parameters that get no gradient from any term.

    Raises:
        ValueError: If no parameter of the student gets one, or a term compares rows that the batch does not have.
    """
    trainable = {name: parameter for name, parameter in distiller.named_parameters() if parameter.requires_grad}
    weights = torch.ones(len(distiller.terms), device=next(distiller.parameters()).device)
    with leaving_no_trace(distiller), evaluating(distiller), torch.enable_grad():
        loss = distiller(inputs, targets, labels, weights, rows, samples)["loss"]
        gradients = (
            torch.autograd.grad(loss, list(trainable.values()), allow_unused=True)
            if loss.requires_grad
            else [None] * len(trainable)
        )
    missing = {name for name, gradient in zip(trainable, gradients, strict=True) if gradient is None}
    if not any(name.startswith("student.") for name in set(trainable) - missing):
        raise ValueError(
            f"the terms {[term.name for term in distiller.terms]} reach no trainable parameter of the student: "
            "it would not learn. Freeze less, or name tensors that come later in the student."
        )
    return missing


def _points(
    model: nn.Module, named: Sequence[tuple[str, RunTerm]], forward: Callable[[], object]
) -> dict[str, CapturePoint]:
    boundaries = [name for name, term in named if name != LOGITS and term.objective.boundary]
    points = resolve_boundaries(model, boundaries, forward) if boundaries else {}
    for name, term in named:
        if name == LOGITS or term.objective.boundary:
            continue
        module, side = parse_name(model, name)
        point = CapturePoint(module, side or "output")
        if points.setdefault(name, point) != point:
            raise ValueError(
                f"{name!r} is a boundary in one term and a plain output in another; write '{name}:output' in the latter"
            )
    return points
