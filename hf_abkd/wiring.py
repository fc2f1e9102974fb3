"""Wiring: from the names in the terms to tensors and connectors, on one batch, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hf_abkd.capture import Capture, CapturePoint, evaluating, parse_name, resolve_boundaries
from hf_abkd.distiller import Distiller
from hf_abkd.teacher import LiveTeacher
from hf_abkd.terms import LOGITS, Term


@dataclass(frozen=True)
class Wiring:
    """What the names in the terms of a run stand for.

    Args:
        student: The tensor of the student behind each name.
        teacher: The tensor of the teacher behind each name.
        overwritten: The tensors of the student that a later operation overwrites in place.
    """

    student: dict[str, CapturePoint]
    teacher: dict[str, CapturePoint]
    overwritten: set[CapturePoint]

    def teacher_points(self, terms: Sequence[Term]) -> dict[str, CapturePoint]:
        """Return the tensors of the teacher that these terms need besides its logits."""
        return {name: point for name, point in self.teacher.items() if any(term.teacher == name for term in terms)}


def check_names(student: nn.Module, teacher: nn.Module | None, terms: Sequence[Term]) -> None:
    """Check that every module named in the terms exists; needs no data.

    Raises:
        ValueError: If a name is wrong, or a term needs a teacher and there is none.
    """
    for term in terms:
        if term.student != LOGITS:
            parse_name(student, term.student)
        if term.teacher is None:
            continue
        if teacher is None:
            raise ValueError(f"term {term.name!r} compares with a teacher, and `teacher` is None")
        if term.teacher != LOGITS:
            parse_name(teacher, term.teacher)


def check_images(model: nn.Module, role: str, images: Tensor) -> None:
    """Check the size and the channels of a batch of images against what a model's config says it was made for.

    Raises:
        ValueError: If they differ.
    """
    config = getattr(model, "config", None)
    channels = getattr(config, "num_channels", None)
    if isinstance(channels, int) and channels != images.shape[1]:
        raise ValueError(
            f"the {role} {type(model).__name__} takes images of {channels} channels, the batch has {images.shape[1]}: "
            f"pixel_values {tuple(images.shape)}. Convert the images, or use a {role} for {images.shape[1]} channels."
        )
    size = getattr(config, "image_size", None)
    if size is None:
        return
    expected = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if tuple(images.shape[2:]) != expected:
        raise ValueError(
            f"the {role} {type(model).__name__} was made for images of {expected[0]}x{expected[1]} pixels "
            f"(config.image_size), the batch has {images.shape[2]}x{images.shape[3]}. Set the processor's size to the "
            f"{role}'s, use a {role} for this size, or, if it does work at this size, set {role}.config.image_size."
        )


def wire(student: nn.Module, teacher: LiveTeacher | None, terms: Sequence[Term], inputs: Mapping[str, Any]) -> Wiring:
    """Find the tensors that the terms name, and make their connectors on the device of the student.

    Runs both models on one batch, in eval mode and without gradients.

    Args:
        student: The student.
        teacher: The teacher, if a term needs one.
        terms: The terms of all stages.
        inputs: A batch without labels.

    Raises:
        ValueError: If a name, an image size or a pair of shapes is not possible, or a model cannot run the batch.
    """
    with evaluating(student), torch.no_grad():
        logits = getattr(_run("student", student, lambda: student(**inputs)), "logits", None)
        if not isinstance(logits, Tensor):
            raise TypeError(
                f"the student {type(student).__name__} returns no `.logits`. Use a class for image classification, "
                "with config.return_dict left at True."
            )
        student_points = _points(student, [(term.student, term) for term in terms], lambda: student(**inputs))
        with Capture(student, student_points.values()) as capture:
            captured = capture.probe(lambda: student(**inputs))
    for term in terms:
        term.to(logits.device)
    student_tensors = {LOGITS: logits, **{name: captured[point] for name, point in student_points.items()}}
    if teacher is None:
        return Wiring(student_points, {}, capture.overwritten)
    if "pixel_values" in inputs:
        check_images(teacher.model, "teacher", inputs["pixel_values"])
    with torch.no_grad():
        _run("teacher", teacher.model, lambda: teacher.logits(inputs))
        teacher_points = _points(
            teacher.model,
            [(term.teacher, term) for term in terms if term.teacher is not None],
            lambda: teacher.logits(inputs),
        )
    teacher.select(teacher_points)
    targets = teacher.probe(inputs)
    for term in terms:
        if term.teacher is None:
            continue
        student_tensor, target = student_tensors[term.student], targets[term.teacher]
        if term.student == term.teacher == LOGITS and term.connector_kind == "auto":
            _check_label_space(term, student_tensor.shape, target.shape)
            _check_label_order(term, student, teacher.model)
        term.connect(student_tensor.shape, target.shape)
        term.to(logits.device)
        with evaluating(term), torch.no_grad():
            try:
                term(term.adapt(student_tensor), target)
            except RuntimeError as error:
                raise ValueError(
                    f"the connector of term {term.name!r} ({term.pair}) cannot take {tuple(student_tensor.shape)}: "
                    f"{error}"
                ) from error
    return Wiring(student_points, teacher_points, capture.overwritten)


def unreached(
    distiller: Distiller, inputs: Mapping[str, Any], targets: Mapping[str, Tensor], labels: Tensor | None
) -> set[str]:
    """Return the names of the trainable parameters that get no gradient from any term.

    Raises:
        ValueError: If no parameter of the student gets one.
    """
    trainable = {name: parameter for name, parameter in distiller.named_parameters() if parameter.requires_grad}
    weights = torch.ones(len(distiller.terms), device=next(distiller.parameters()).device)
    with evaluating(distiller), torch.enable_grad():
        loss = distiller(inputs, targets, labels, weights)["loss"]
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


def _run(role: str, model: nn.Module, forward: Callable[[], Any]) -> Any:
    try:
        return forward()
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(f"the {role} {type(model).__name__} cannot run a batch of the data set: {error}") from error


def _check_label_space(term: Term, student: torch.Size, teacher: torch.Size) -> None:
    if student != teacher:
        raise ValueError(
            f"term {term.name!r} compares the logits of two label spaces: the student has {student[1]} classes, the "
            f"teacher {teacher[1]}. Use a teacher with the student's classes, or terms on features and, for the "
            "teacher's own classes, a term with `connector='linear'` on a feature of the student."
        )


def _check_label_order(term: Term, student: nn.Module, teacher: nn.Module) -> None:
    ours, theirs = (getattr(getattr(model, "config", None), "id2label", None) or {} for model in (student, teacher))
    moved = sorted(index for index in ours if ours[index] != theirs.get(index))
    if moved and sorted(ours.values()) == sorted(theirs.values()):
        raise ValueError(
            f"term {term.name!r} compares logits class by class, but the two models order the same classes "
            f"differently: class {moved[0]} is {ours[moved[0]]!r} for the student and {theirs[moved[0]]!r} for the "
            "teacher. Give data set and student the teacher's order."
        )
