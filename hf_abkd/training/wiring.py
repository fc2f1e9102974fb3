"""Wiring: from the names in the terms to tensors and connectors, on one batch, before anything is trained."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hf_abkd.layers.boundary_points import resolve_boundaries
from hf_abkd.layers.capture import Capture, CapturePoint
from hf_abkd.layers.layout import Layout
from hf_abkd.layers.module_kinds import leaves_pixels_out
from hf_abkd.layers.module_names import parse_name
from hf_abkd.layers.pairing import propose
from hf_abkd.layers.plan import Plan
from hf_abkd.layers.sites import Trace
from hf_abkd.layers.tracing import trace
from hf_abkd.models.expected_images import check_channels, other_size
from hf_abkd.models.kept_state import evaluating, leaving_no_trace
from hf_abkd.models.label_spaces import LabelMatch, label_match
from hf_abkd.models.outputs import LOGITS, logits_of
from hf_abkd.stages.term import Term
from hf_abkd.teachers.cache.table import Column
from hf_abkd.teachers.cache.teacher_cache import TeacherCache
from hf_abkd.teachers.live import LiveTeacher
from hf_abkd.training.distiller import Distiller
from hf_abkd.training.joint_distiller import JointDistiller

logger = logging.getLogger(__name__)


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

    def columns(self, terms: Sequence[Term]) -> dict[str, Column]:
        """Return the columns of a cached teacher that these terms need."""
        return {name: column for name, column in self.cached.items() if any(term.teacher == name for term in terms)}

    def teacher_points(self, terms: Sequence[Term]) -> dict[str, CapturePoint]:
        """Return the tensors of the teacher that these terms need besides its logits."""
        return {name: point for name, point in self.teacher.items() if any(term.teacher == name for term in terms)}


def check_names(student: nn.Module, teacher: nn.Module | TeacherCache | None, terms: Sequence[Term]) -> None:
    """Check that every module named in the terms exists; needs no data.

    Raises:
        ValueError: If a name is wrong, a term needs a teacher and there is none, or one that was cached without it.
    """
    for term in terms:
        if term.student != LOGITS:
            parse_name(student, term.student)
        if term.teacher is None:
            continue
        if teacher is None:
            raise ValueError(f"term {term.name!r} compares with a teacher, and `teacher` is None")
        if isinstance(teacher, TeacherCache):
            teacher.column(term.teacher, boundary=term.objective.boundary, reader=f"term {term.name!r}")
        elif term.teacher != LOGITS:
            parse_name(teacher, term.teacher)


def trace_model(role: str, model: nn.Module, forward: Callable[[Tensor], object], images: Tensor) -> Trace:
    """Trace a model; see `hf_abkd.layers.tracing.trace`.

    Raises:
        ValueError: If it cannot run the images.
    """
    # A data set of one row is enough to wire; tracing has to tell the batch from other dimensions.
    images = images if len(images) > 1 else images.repeat(2, 1, 1, 1)
    found: Trace = _run(role, model, lambda: trace(model, forward, images))
    if found.functional:
        seen = sum(not site.left_out for site in found.sites)
        module, function, _ = found.functional[0]
        # A few inside attention are usual; where they are half of a model or more, the rest is not all it computes by.
        level = logging.WARNING if len(found.functional) >= seen else logging.INFO
        logger.log(
            level,
            "activations of the %s are function calls, which cannot be captured, in %d modules "
            "(%s in %r, for example); layers are paired among its %d activation modules",
            role,
            len(found.functional),
            function,
            module or type(model).__name__,
            seen,
        )
    return found


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
    terms: Sequence[Term],
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
    teacher_inputs = inputs if teacher_inputs is None else teacher_inputs
    check_channels(student, "student", inputs[images])
    with evaluating(student), torch.no_grad():
        logits = logits_of(_first_run("student", student, lambda: student(**inputs)), student, "student")
        student_points = _points(student, [(term.student, term) for term in terms], lambda: student(**inputs))
        with Capture(student, student_points.values()) as capture:
            captured = capture.probe(lambda: student(**inputs))
    for term in terms:
        term.to(logits.device)
    for term in terms:
        if term.objective.target == "domains":
            shape = logits.shape if term.student == LOGITS else captured[student_points[term.student]].shape
            term.connect_domains(shape)
            term.to(logits.device)
    student_tensors = {LOGITS: logits, **{name: captured[point] for name, point in student_points.items()}}
    if teacher is None:
        return Wiring(student_points, {}, capture.overwritten)
    side: _TeacherSide
    if isinstance(teacher, TeacherCache):
        side = _stored(teacher, terms, len(logits), logits.device)
    else:
        side = _run_teacher(teacher, terms, teacher_inputs, images, None if traces is None else traces[1])
    student_layouts: dict[CapturePoint, Layout] = {}
    if _connected(terms):
        student_layouts = _layouts(
            "student",
            student,
            student_points,
            lambda pixels: student(**{**inputs, images: pixels}),
            inputs[images],
            None if traces is None else traces[0],
        )
    labels = label_match(
        student, teacher if isinstance(teacher, TeacherCache) else teacher.model, logits.shape[1], side.classes
    )
    for term in terms:
        if term.teacher is None:
            continue
        student_tensor, target = student_tensors[term.student], side.targets[term.teacher]
        if term.student == term.teacher == LOGITS and term.connector_kind == "auto":
            labels.check_logits(term.name)
            if labels.kind not in ("same", "assumed"):
                term.connect_classes(labels.student_classes, labels.teacher_classes)
        term.connect(
            student_tensor.shape,
            target.shape,
            student_layouts.get(student_points[term.student]) if term.student != LOGITS else None,
            side.layouts.get(term.teacher),
        )
        term.to(logits.device)
        # An objective may keep statistics of what it saw.
        with leaving_no_trace(term), evaluating(term), torch.no_grad():
            try:
                term(term.adapt(student_tensor), term.view(target))
            except RuntimeError as error:
                raise ValueError(
                    f"the connector of term {term.name!r} ({term.pair}) cannot take {tuple(student_tensor.shape)}: "
                    f"{error}"
                ) from error
    return Wiring(student_points, side.points, capture.overwritten, labels, side.columns)


@dataclass(frozen=True)
class _TeacherSide:
    """What the names of the teacher's tensors stand for, with an example of each, and how they lie."""

    targets: dict[str, Tensor]
    layouts: dict[str, Layout | None]
    classes: int
    points: dict[str, CapturePoint] = field(default_factory=dict)
    columns: dict[str, Column] = field(default_factory=dict)


def _run_teacher(
    teacher: LiveTeacher, terms: Sequence[Term], inputs: Mapping[str, Any], images: str, known: Trace | None
) -> _TeacherSide:
    check_channels(teacher.model, "teacher", inputs[images])
    hint = other_size(teacher.model, inputs[images])
    with torch.no_grad():
        try:
            _first_run("teacher", teacher.model, lambda: teacher.logits(inputs))
        except ValueError as error:
            raise ValueError(f"{error} {hint or ''}".rstrip()) from error
        points = _points(
            teacher.model,
            [(term.teacher, term) for term in terms if term.teacher is not None],
            lambda: teacher.logits(inputs),
        )
    teacher.select(points)
    targets = teacher.probe(inputs)
    layouts: dict[CapturePoint, Layout] = {}
    if _connected(terms):
        layouts = _layouts(
            "teacher",
            teacher.model,
            points,
            lambda pixels: teacher.logits({**inputs, images: pixels}),
            inputs[images],
            known,
        )
    named = {name: layouts.get(point) for name, point in points.items()}
    return _TeacherSide(targets, named, targets[LOGITS].shape[1], points)


def _stored(cache: TeacherCache, terms: Sequence[Term], count: int, device: torch.device) -> _TeacherSide:
    columns = {
        term.teacher: cache.column(term.teacher, boundary=term.objective.boundary)
        for term in terms
        if term.teacher is not None
    }
    targets = {name: cache.example(column, count).to(device) for name, column in columns.items()}
    layouts = {name: cache.layout(column) for name, column in columns.items()}
    return _TeacherSide(targets, layouts, cache.classes, columns=columns)


def _connected(terms: Sequence[Term]) -> bool:
    """Whether a connector between layers has to be chosen."""
    return any(term.teacher not in (None, LOGITS) and term.connector_kind is not None for term in terms)


def unreached(
    distiller: Distiller | JointDistiller,
    inputs: Mapping[str, Any],
    targets: Mapping[str, Any],
    labels: Tensor | None,
    rows: Mapping[str, slice] | None = None,
) -> set[str]:
    """Return the names of the trainable parameters that get no gradient from any term.

    Raises:
        ValueError: If no parameter of the student gets one, or a term compares rows that the batch does not have.
    """
    trainable = {name: parameter for name, parameter in distiller.named_parameters() if parameter.requires_grad}
    weights = torch.ones(len(distiller.terms), device=next(distiller.parameters()).device)
    with leaving_no_trace(distiller), evaluating(distiller), torch.enable_grad():
        loss = distiller(inputs, targets, labels, weights, rows)["loss"]
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
    model: nn.Module, named: Sequence[tuple[str, Term]], forward: Callable[[], object]
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


def _first_run(role: str, model: nn.Module, forward: Callable[[], Any]) -> Any:
    """Run a model, and warn of pixels that it does not look at."""
    found: dict[str, str] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: tuple[object, ...]) -> None:
            if given and isinstance(value := given[0], Tensor) and leaves_pixels_out(module, value):
                found[name] = f"{value.shape[-2]}x{value.shape[-1]} into patches of {_by(module.stride)}"

        return hook

    handles = [module.register_forward_pre_hook(watch(name)) for name, module in model.named_modules()]
    try:
        output = _run(role, model, forward)
    finally:
        for handle in handles:
            handle.remove()
    for name, what in found.items():
        logger.warning(
            "%r of the %s cuts its input of %s and leaves the last rows or columns out; an image size that is a "
            "multiple of the patch would use all pixels",
            name,
            role,
            what,
        )
    return output


def _by(sizes: Any) -> str:
    return "x".join(map(str, sizes))


def _run(role: str, model: nn.Module, forward: Callable[[], Any]) -> Any:
    try:
        return forward()
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(f"the {role} {type(model).__name__} cannot run a batch of the data set: {error}") from error


def _layouts(
    role: str,
    model: nn.Module,
    points: Mapping[str, CapturePoint],
    forward: Callable[[Tensor], object],
    images: Tensor,
    known: Trace | None,
) -> dict[CapturePoint, Layout]:
    """Return how the tensors at these points lie."""
    wanted = set(points.values())
    if known is None or not wanted <= {site.point for site in known.sites}:
        images = images if len(images) > 1 else images.repeat(2, 1, 1, 1)
        known = _run(role, model, lambda: trace(model, forward, images, wanted))
    layouts = {site.point: site.layout for site in known.sites if site.point in wanted and site.layout is not None}
    return {**known.layouts, **layouts}
