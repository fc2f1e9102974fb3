"""Wiring: from the names in the terms to tensors and connectors, on one batch, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hf_abkd.data.table.columns import Column
from hf_abkd.layers.capture import CapturePoint
from hf_abkd.layers.module_names import parse_name
from hf_abkd.layers.sites import Trace
from hf_abkd.models.costs import exceeds
from hf_abkd.models.expected_images import PIXELS
from hf_abkd.models.kept_state import evaluating, leaving_no_trace
from hf_abkd.models.label_spaces import LabelMatch, label_match
from hf_abkd.models.outputs import LOGITS
from hf_abkd.models.tasks.image_classification import IMAGE_CLASSIFICATION
from hf_abkd.models.tasks.task import Task
from hf_abkd.stages.term import Term
from hf_abkd.teachers.cache.teacher_cache import TeacherCache
from hf_abkd.teachers.live import LiveTeacher
from hf_abkd.training.terms.distiller import Distiller
from hf_abkd.training.terms.joint_distiller import JointDistiller
from hf_abkd.training.terms.run_term import RunTerm, Tensors
from hf_abkd.training.wiring.observed import (
    Observed,
    connects_layers,
    has_exits,
    observed_cache,
    observed_student,
    observed_teacher,
)


@dataclass(frozen=True)
class Wiring:
    """What the names in the terms of a run stand for.

    Args:
        student: The tensor of the student behind each name.
        teacher: The tensor of the teacher behind each name.
        overwritten: The tensors of the student that a later operation overwrites in place.
        labels: Which classes of the teacher are which of the student's; None without a teacher.
        cached: The column of a cached teacher behind each name.
        too_costly: A sentence, if the student is larger or slower than its teacher.
        multiplications: How many "student" and "teacher" take for an image, where that is known.
    """

    student: dict[str, CapturePoint]
    teacher: dict[str, CapturePoint]
    overwritten: set[CapturePoint]
    labels: LabelMatch | None = None
    cached: dict[str, Column] = field(default_factory=dict)
    too_costly: str | None = None
    multiplications: dict[str, int] = field(default_factory=dict)

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
                _check_side(term, name)
                teacher.column(name, boundary=term.objective.boundary, reader=f"term {term.name!r}")
            elif name != LOGITS:
                parse_name(teacher, name)


def _check_side(term: Term | RunTerm, name: str) -> None:
    """Refuse a name without a side where values before an activation are read: a cache knows it as what comes behind.

    Raises:
        ValueError: If it is one.
    """
    if term.objective.before_activation and name.rpartition(":")[2] not in ("input", "output"):
        raise ValueError(
            f"term {term.name!r} compares values before an activation, and in a cache {name!r} is what comes behind "
            "it. Store the input of the activation, `--features ACTIVATION:input`, and name it so in the term."
        )


def teacher_names(terms: Iterable[Term | RunTerm]) -> set[str]:
    """Return the tensors of the teacher that some terms compare with, the logits among them."""
    return {name for term in terms for name in term.teacher_names}


def wire(
    student: nn.Module,
    teacher: LiveTeacher | TeacherCache | None,
    terms: Sequence[RunTerm],
    inputs: Mapping[str, Any],
    teacher_inputs: Mapping[str, Any] | None = None,
    images: str = PIXELS,
    traces: tuple[Trace, Trace] | None = None,
    task: Task = IMAGE_CLASSIFICATION,
    match: Callable[[int, int], LabelMatch] | None = None,
    samples: int | None = None,
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
        task: What the models do.
        match: Returns which classes of the teacher are which of the student's, of so many logits of student and
            teacher; by default it goes by the names in their configs alone.
        samples: How many images the training set has; None where that is not known.

    Raises:
        ValueError: If a name, an image size or a pair of shapes is not possible, or a model cannot run the batch.
    """
    ours = observed_student(student, terms, inputs, images, task)
    device = ours.tensors[LOGITS].device
    task.check_prediction(ours.tensors[LOGITS], student, "student")
    for term in terms:
        if not term.wants_teacher:
            term.connect(ours.sides(term.student_names))
            term.begin(samples=samples)
            term.to(device)
    if teacher is None:
        return Wiring(ours.points, {}, ours.overwritten, multiplications=_multiplications(student=ours))
    if isinstance(teacher, TeacherCache):
        theirs = observed_cache(teacher, terms, len(ours.tensors[LOGITS]), device)
    else:
        theirs = observed_teacher(teacher, terms, inputs if teacher_inputs is None else teacher_inputs, images, traces)
    if any(LOGITS in term.teacher_names or term.needs("teacher_head") for term in terms):
        model = teacher if isinstance(teacher, TeacherCache) else teacher.model
        task.check_prediction(theirs.tensors[LOGITS], model, "teacher")
    if connects_layers(terms) or has_exits(terms):
        known = None if traces is None else traces[0]
        ours.find_layouts(
            "student", student, lambda pixels: student(**{**inputs, images: pixels}), inputs[images], known
        )
    named = teacher if isinstance(teacher, TeacherCache) else teacher.model
    match = match or partial(label_match, student, named)
    labels = match(ours.tensors[LOGITS].shape[1], theirs.classes)
    for term in terms:
        if term.wants_teacher:
            _connect(term, ours, theirs, labels)
            term.to(device)
            norms = [theirs.normalizations.get(name) for name in term.teacher_names]
            term.begin([theirs.tensors[name] for name in term.teacher_names], samples, norms)
            # What was made there.
            term.to(device)
            _try_out(term, ours, theirs)
    too_costly = exceeds(ours.cost, theirs.cost)
    counts = _multiplications(student=ours, teacher=theirs)
    return Wiring(ours.points, theirs.points, ours.overwritten, labels, theirs.columns, too_costly, counts)


def _multiplications(**observed: Observed) -> dict[str, int]:
    """Return how many multiplications models take for an image, of those whose layers show it."""
    return {
        role: one.cost.multiplications // len(one.tensors[LOGITS])
        for role, one in observed.items()
        if one.cost is not None
    }


def wire_back(
    teacher: tuple[nn.Module, Mapping[str, Any]],
    student: tuple[nn.Module, Mapping[str, Any]],
    terms: Sequence[RunTerm],
    images: str,
    task: Task,
    labels: LabelMatch | None,
) -> None:
    """Connect the terms by which a teacher learns from the student: they compare the logits of both.

    Args:
        teacher: The teacher, and a batch for it.
        student: The student, and the same images for it.
        terms: The terms.
        images: The name of the images in the batches.
        task: What the models do.
        labels: Which classes of the teacher are which of the student's; None if the student does not compare.

    Raises:
        ValueError: If the two do not have the same classes in the same order.
    """
    what = f"the terms {[term.name for term in terms]} teach the teacher what the student says"
    if labels is None:
        raise ValueError(f"{what}, and no term of the student compares with the teacher: pass the two the other way")
    if labels.kind not in ("same", "assumed"):
        raise ValueError(f"{what}, for which both need the same classes in the same order; here {labels.describe()}")
    ours, theirs = (observed_student(model, [], inputs, images, task) for model, inputs in (teacher, student))
    for term in terms:
        term.connect(ours.sides(term.student_names), theirs.sides(term.teacher_names))
        term.begin([theirs.tensors[LOGITS]])
        term.to(ours.tensors[LOGITS].device)
        _try_out(term, ours, theirs)


def _connect(term: RunTerm, student: Observed, teacher: Observed, labels: LabelMatch) -> None:
    """Make the connector of a term that compares with a teacher."""
    if term.compares_classes and term.connector_kind == "auto":
        labels.check_logits(term.name)
        if labels.kind not in ("same", "assumed"):
            term.connect_classes(labels.student_classes, labels.teacher_classes)
    term.connect(student.sides(term.student_names), teacher.sides(term.teacher_names))
    if term.needs("teacher_head") and teacher.head is not None:
        term.give_head(teacher.head)


def _try_out(term: RunTerm, student: Observed, teacher: Observed) -> None:
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
    reached = set(trainable) - missing
    wanted = "student." if any(term.objective.teaches for term in distiller.terms) else ""
    if not any(name.startswith(wanted) for name in reached):
        raise ValueError(
            f"the terms {[term.name for term in distiller.terms]} reach no trainable parameter of the student: "
            "it would not learn. Freeze less, or name tensors that come later in the student."
        )
    return missing
