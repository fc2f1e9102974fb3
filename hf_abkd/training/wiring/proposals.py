"""Proposals: which layers of two models are compared where nobody names any, from one batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hf_abkd.layers.pairing import propose
from hf_abkd.layers.plan import Plan
from hf_abkd.layers.sites import Trace
from hf_abkd.models.kept_state import evaluating
from hf_abkd.models.tasks.image_classification import IMAGE_CLASSIFICATION
from hf_abkd.models.tasks.task import Task
from hf_abkd.teachers.cache.teacher_cache import TeacherCache
from hf_abkd.teachers.live import LiveTeacher
from hf_abkd.training.wiring.trial import found_head_input, trace_model


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


def propose_heads(
    student: nn.Module,
    teacher: LiveTeacher,
    inputs: Mapping[str, Any],
    teacher_inputs: Mapping[str, Any],
    task: Task = IMAGE_CLASSIFICATION,
) -> Plan:
    """Return the pair of what the last layers of two models read: the features in front of their classifiers.

    Args:
        student: The student.
        teacher: The teacher.
        inputs: A batch for the student, without labels.
        teacher_inputs: The same images for the teacher.
        task: What the models do.

    Raises:
        ValueError: If a model has no such layer.
    """

    def ours() -> Tensor:
        return task.prediction(student(**inputs), student, "student")

    def theirs() -> Tensor:
        return teacher.logits(teacher_inputs)

    names = []
    with torch.no_grad(), evaluating(student):
        for role, model, forward in (("student", student, ours), ("teacher", teacher.model, theirs)):
            name = found_head_input(model, forward, forward().shape[1])
            if name is None:
                raise ValueError(
                    f"the features in front of the classifier of the {role}, {type(model).__name__}, are not found: no "
                    "linear layer of it makes its logits of one vector. Name the layers that are compared, or ask for "
                    "pairs='last'."
                )
            names.append(name)
    return Plan.of_names([(names[0], names[1])])
