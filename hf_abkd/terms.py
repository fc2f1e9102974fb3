"""Term = weight x objective(student tensor, target): the one place that detaches, casts to float32, checks shapes."""

from __future__ import annotations

import math
from numbers import Real
from typing import Literal

import torch
from torch import Tensor, nn

from hf_abkd.connectors import LinearHead, connector_for
from hf_abkd.objectives import OBJECTIVES, Objective
from hf_abkd.schedules import Schedule

LOGITS = "logits"
# Keys of a log line that are not a term's.
_RESERVED_NAMES = frozenset({"loss", "grad_norm", "learning_rate", "epoch", "step", "stage", "total_flos"})


class Term(nn.Module):
    """One part of the loss of a stage.

    Args:
        objective: The formula.
        student: Which tensor of the student: `"logits"`, or the name of a module, optionally with a side:
            `"encoder.stages.0:output"`, `"encoder.stages.0:input"`. Without a side it is the module's output or, for
            a boundary objective, the input of the activation that produces the module's output.
        teacher: Likewise for the teacher. None for an objective that compares with the labels; for the others it
            is `"logits"` when `student` is.
        weight: A number, or a `Schedule` over the stage.
        connector: A module that brings the student's tensor to the teacher's shape. `"auto"` picks one from the two
            shapes (identity where they are equal), `"linear"` is an extra linear head.
        name: What it is called in logs and cards; by default the objective's, with the student's module.

    Raises:
        TypeError: If the objective is none, or the weight is neither a number nor a schedule.
        ValueError: If the sources do not fit the objective, or a weight is negative.
    """

    def __init__(
        self,
        objective: Objective,
        *,
        student: str = LOGITS,
        teacher: str | None = None,
        weight: float | Schedule = 1.0,
        connector: nn.Module | Literal["auto", "linear"] = "auto",
        name: str | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(objective, Objective):
            raise TypeError(
                f"a term needs an objective, one of {sorted(kind.__name__ for kind in OBJECTIVES.values())} or your "
                f"own subclass of Objective; got {objective!r}"
            )
        if objective.target == "labels":
            if teacher is not None:
                raise ValueError(f"{type(objective).__name__} compares with the labels; leave teacher={teacher!r} out")
            if connector == "linear":
                raise ValueError(
                    f"a linear head on {student!r} needs the number of classes; give connector=nn.Sequential("
                    "nn.Flatten(), nn.Linear(features, classes))"
                )
        elif teacher is None:
            if student != LOGITS:
                raise ValueError(f"say which tensor of the teacher {student!r} is compared with: teacher='...'")
            teacher = LOGITS
        if not isinstance(weight, (Real, Schedule)):
            raise TypeError(f"weight must be a number or a Schedule, got {weight!r}")
        weight = weight if isinstance(weight, Schedule) else float(weight)
        if not isinstance(weight, Schedule) and not 0 <= weight < math.inf:
            raise ValueError(f"weight must be finite and not negative, got {weight}")
        if name in _RESERVED_NAMES or (name or "").startswith(("eval_", "train_", "weight/", "boundary_agreement/")):
            raise ValueError(f"a term cannot be named {name!r}: the log uses that name for something else")
        if not isinstance(connector, nn.Module) and connector not in ("auto", "linear"):
            raise ValueError(f"connector must be 'auto', 'linear' or a module, got {connector!r}")
        self.objective = objective
        self.student = student
        self.teacher = teacher
        self.weight = weight
        self.name = name or _default_name(objective, student)
        # What the agreement of a boundary term is logged as: the layer, unless the user gave the term a name.
        self.layer = name or student
        self.connector_kind = connector if isinstance(connector, str) else "given"
        self.connector: nn.Module | None = connector if isinstance(connector, nn.Module) else None

    def connect(self, student_shape: torch.Size, teacher_shape: torch.Size) -> None:
        """Make the connector, once both shapes are known.

        Raises:
            ValueError: If no connector maps the one to the other.
        """
        if self.connector is not None:
            return
        try:
            if self.connector_kind == "linear":
                self.connector = LinearHead(student_shape[1], teacher_shape[1])
            else:
                self.connector = connector_for(student_shape, teacher_shape)
        except ValueError as error:
            raise ValueError(f"term {self.name!r} ({self.pair}): {error}") from error

    @property
    def pair(self) -> str:
        """The two sources, for messages."""
        return f"student {self.student!r}, {'teacher ' + repr(self.teacher) if self.teacher else 'labels'}"

    def weight_at(self, progress: float) -> float:
        """Return the weight when this share of the stage is done, from 0 to 1."""
        return self.weight(progress) if isinstance(self.weight, Schedule) else self.weight

    def adapt(self, student: Tensor) -> Tensor:
        """Return the student's tensor behind the connector, in float32."""
        return (student if self.connector is None else self.connector(student)).float()

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the value of the objective, without its weight, shape ().

        Args:
            student: The student's tensor behind the connector (see `adapt`).
            target: The teacher's tensor, or the labels.

        Raises:
            ValueError: If the two shapes do not fit.
        """
        if self.objective.target == "teacher":
            target = target.detach().float()
            if student.shape != target.shape:
                raise ValueError(
                    f"term {self.name!r} compares {tuple(student.shape)} with {tuple(target.shape)} ({self.pair}). "
                    + _shape_help(self.student == self.teacher == LOGITS)
                )
        # Half precision would overflow in the sums of squares: the objective runs in float32 whatever surrounds it.
        with torch.autocast(device_type=student.device.type, enabled=False):
            value: Tensor = self.objective(student, target)
        return value

    def describe(self) -> dict[str, str]:
        """Return what defines this term, for checkpoints, logs and cards."""
        return {
            "name": self.name,
            "objective": repr(self.objective),
            "student": self.student,
            "teacher": self.teacher or "labels",
            "weight": repr(self.weight),
            "connector": self.connector_kind if self.connector is None else type(self.connector).__name__,
        }


def _default_name(objective: Objective, student: str) -> str:
    table = {kind: name for name, kind in OBJECTIVES.items()}
    name = table.get(type(objective), type(objective).__name__)
    return name if student == LOGITS else f"{name}/{student}"


def _shape_help(logits: bool) -> str:
    if logits:
        return (
            "The two models have label spaces of different sizes. Use a teacher with the student's classes, or terms "
            "on features and a `connector='linear'` head instead of the logits."
        )
    return "Give the term a connector from the one shape to the other."
