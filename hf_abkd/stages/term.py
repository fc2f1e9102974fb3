"""Term = weight x objective(student tensor, target): the one place that detaches, casts to float32, checks shapes."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor, nn

from hf_abkd.boundaries.mapped_boundary import fits
from hf_abkd.boundaries.packing import unpack_signs
from hf_abkd.layers.connectors import (
    KINDS,
    ClassSelection,
    Connection,
    DomainDiscriminator,
    Kind,
    MapConnector,
    TokenConnector,
    connect,
)
from hf_abkd.layers.layer_pair import LayerPair, PlannedTensor
from hf_abkd.layers.layout import Layout, plain_layout
from hf_abkd.layers.plan import Plan
from hf_abkd.models.outputs import LOGITS
from hf_abkd.objectives import OBJECTIVES, ActivationBoundary, DomainClassification, Objective, boundary_agreement
from hf_abkd.stages.schedules import Schedule

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
        connector: A module that brings the student's tensor to the teacher's shape. `"auto"` picks one from shapes
            and layouts (identity where they are equal); `"identity"`, `"map"`, `"tokens"` and `"linear"` (an extra
            linear head) ask for one; see `hf_abkd.layers.connectors.connect`.
        name: What it is called in logs and cards; by default the objective's, with the student's module.
        student_layout: How the student's tensor lies, if that cannot be found out by running the model.
        teacher_layout: Likewise the teacher's.
        rows: Which rows of a training batch are compared, where a batch is made of several kinds (see
            `hf_abkd.data.batch.Batch`). None compares all of them.

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
        connector: nn.Module | Kind = "auto",
        name: str | None = None,
        student_layout: Layout | None = None,
        teacher_layout: Layout | None = None,
        rows: str | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(objective, Objective):
            raise TypeError(
                f"a term needs an objective, one of {sorted(kind.__name__ for kind in OBJECTIVES.values())} or your "
                f"own subclass of Objective; got {objective!r}"
            )
        if objective.target != "teacher":
            if teacher is not None:
                raise ValueError(
                    f"{type(objective).__name__} compares with the {objective.target}; leave teacher={teacher!r} out"
                )
            if connector == "linear":
                raise ValueError(
                    f"a linear head on {student!r} needs the number of classes; give connector=nn.Sequential("
                    "nn.Flatten(), nn.Linear(features, classes))"
                )
        elif teacher is None:
            if student != LOGITS:
                raise ValueError(f"say which tensor of the teacher {student!r} is compared with: teacher='...'")
            teacher = LOGITS
        weight = _checked(weight)
        if name in _RESERVED_NAMES or (name or "").startswith(("eval_", "train_", "weight/", "boundary_agreement/")):
            raise ValueError(f"a term cannot be named {name!r}: the log uses that name for something else")
        if not isinstance(connector, nn.Module) and connector not in KINDS:
            raise ValueError(f"connector must be one of {list(KINDS)} or a module, got {connector!r}")
        self.objective = objective
        self.student = student
        self.teacher = teacher
        self.weight = weight
        self.rows = rows
        self.name = name or _default_name(objective, student) + (f"@{rows}" if rows else "")
        # What the agreement of a boundary term is logged as: the layer, unless the user gave the term a name.
        self.layer = name or student
        self.connector_kind: Kind | None = connector if isinstance(connector, str) else None
        self.connector: nn.Module | None = connector if isinstance(connector, nn.Module) else None
        self.target_view: nn.Module = nn.Identity()
        self.student_layout, self.teacher_layout = student_layout, teacher_layout
        #: The factor that `balance_terms` has found; 1 otherwise.
        self.balance = 1.0
        #: The weight of its pair in a plan, without that of the objective.
        self.pair_weight = weight if isinstance(weight, float) else 1.0
        self._layer_pair: LayerPair | None = None
        self._teacher_shape: tuple[int, ...] = ()

    def connect(
        self,
        student_shape: Sequence[int],
        teacher_shape: Sequence[int],
        student_layout: Layout | None = None,
        teacher_layout: Layout | None = None,
    ) -> None:
        """Make the connector, once both shapes are known.

        Args:
            student_shape: The shape of the student's tensor, with the batch.
            teacher_shape: Likewise the teacher's.
            student_layout: How the student's tensor lies, as far as that was found out; the user's word goes first.
            teacher_layout: Likewise the teacher's.

        Raises:
            ValueError: If no connector maps the one to the other.
        """
        self._teacher_shape = tuple(teacher_shape[1:])
        own = _layout(self.student_layout, student_layout)
        other = _layout(self.teacher_layout, teacher_layout)
        if self.connector is None:
            try:
                connection = connect(
                    student_shape,
                    teacher_shape,
                    student_layout=own,
                    teacher_layout=other,
                    kind=self.connector_kind or "auto",
                )
            except ValueError as error:
                raise ValueError(f"term {self.name!r} ({self.pair}): {error}") from error
            self.connector, self.target_view = connection.connector, connection.target_view
            description = connection.description
        else:
            # Of the user's, or made in an earlier run over the same layers.
            given = Connection(self.connector, self.target_view, type(self.connector).__name__)
            connection, description = given, "" if self._layer_pair is None else self._layer_pair.description
        if LOGITS in (self.student, self.teacher) or self.teacher is None:
            return
        self._layer_pair = LayerPair(
            _planned(self.student, student_shape, own),
            _planned(self.teacher, teacher_shape, other),
            self.pair_weight,
            self.connector_kind or self.connector,
            description or connection.description,
            connection.parameters,
        )

    def connect_domains(self, student_shape: Sequence[int]) -> None:
        """Make the discriminator of a term that tells domains apart, once the shape of its tensor is known."""
        if self.connector is None and isinstance(self.objective, DomainClassification):
            self.connector = DomainDiscriminator(math.prod(student_shape[1:]))

    def connect_classes(self, student_classes: Sequence[int], teacher_classes: Sequence[int]) -> None:
        """Compare the logits of some classes only: of each model these, in this order."""
        if self.connector is None:
            self.connector = ClassSelection(student_classes)
            self.target_view = ClassSelection(teacher_classes)

    @property
    def layer_pair(self) -> LayerPair | None:
        """The pair of layers that is compared, once it was connected; None for logits and labels."""
        return self._layer_pair

    @property
    def pair(self) -> str:
        """The two sources, for messages."""
        return f"student {self.student!r}, {'teacher ' + repr(self.teacher) if self.teacher else self.objective.target}"

    def weight_at(self, progress: float) -> float:
        """Return the weight when this share of the stage is done, from 0 to 1."""
        return self.balance * (self.weight(progress) if isinstance(self.weight, Schedule) else self.weight)

    def adapt(self, student: Tensor) -> Tensor:
        """Return the student's tensor behind the connector, in float32."""
        return (student if self.connector is None else self.connector(student)).float()

    def view(self, target: Tensor) -> Tensor:
        """Return the teacher's tensor in the form in which it is compared; packed signs (uint8) become bools.

        Labels are returned as they are.
        """
        if self.teacher is None:
            return target
        if target.dtype == torch.uint8:
            target = unpack_signs(target, self._teacher_shape)
        viewed: Tensor = self.target_view(target)
        return viewed

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the value of the objective, without its weight, shape ().

        Args:
            student: The student's tensor behind the connector (see `adapt`).
            target: The teacher's tensor in the same form (see `view`), or the labels.

        Raises:
            ValueError: If the two shapes do not fit.
        """
        if self.objective.target == "teacher":
            # Of a boundary, the sides alone may be known.
            target = target.detach() if target.dtype == torch.bool else target.detach().float()
            if target.dtype == torch.bool and not self.objective.boundary:
                raise ValueError(
                    f"term {self.name!r} compares values, and of the teacher only the signs are known ({self.pair})"
                )
            if student.shape != target.shape:
                raise ValueError(
                    f"term {self.name!r} compares {tuple(student.shape)} with {tuple(target.shape)} ({self.pair}). "
                    + _shape_help(self.student == self.teacher == LOGITS)
                )
        # Half precision would overflow in the sums of squares: the objective runs in float32 whatever surrounds it.
        with torch.autocast(device_type=student.device.type, enabled=False):
            value: Tensor = self.objective(student, target)
        return value

    def compare(self, student: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the value and, of a boundary, the agreement per sample, (N,), without a graph.

        The same as `forward` behind `adapt` and `view`, where it can be in one pass with the connector.

        Args:
            student: The student's tensor.
            target: The teacher's, or the labels.

        Raises:
            ValueError: If the two do not fit.
        """
        viewed = self.view(target)
        mapped = self._in_one_pass(student, viewed)
        if mapped is not None:
            return mapped
        adapted = self.adapt(student)
        return self(adapted, viewed), self.agreement(adapted, viewed)

    def agreement(self, adapted: Tensor, viewed: Tensor) -> Tensor | None:
        """Return, of a boundary, the agreement per sample, (N,); the arguments are those of `forward`."""
        if not self.objective.boundary:
            return None
        with torch.no_grad():
            return boundary_agreement(adapted, viewed)

    def _in_one_pass(self, student: Tensor, sides: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return value and agreement if connector and objective can be taken together; None if they cannot."""
        connector, objective = self.connector, self.objective
        # A subclass may compute something else, and a hook wants to see what the connector returns.
        if type(objective) is not ActivationBoundary:
            return None
        if type(connector) is not MapConnector and type(connector) is not TokenConnector:
            return None
        if not fits(student, sides) or connector._forward_hooks or connector._forward_pre_hooks:
            return None
        found = connector.linear_map(student)
        if found is None:
            return None
        sides = sides.movedim(found.channel_dim, -1)
        if sides.shape != (*found.values.shape[:-1], len(found.weight)):
            return None
        return objective.mapped(found.values, found.weight, found.bias, sides)

    def describe(self) -> dict[str, str]:
        """Return what defines this term, for checkpoints, logs and cards."""
        return {
            "name": self.name,
            "objective": repr(self.objective),
            "student": self.student,
            "teacher": self.teacher or self.objective.target,
            "weight": repr(self.weight),
            "connector": str(self.connector_kind) if self.connector is None else type(self.connector).__name__,
            **({} if self.rows is None else {"rows": self.rows}),
        }


class PairedTerms:
    """One term for every pair of layers of a plan; a stage may hold it in the place of terms.

    Args:
        objective: The formula; every pair has a copy.
        plan: The pairs. None lets the trainer propose them from one batch.
        weight: The weight of all of them; a pair's own weight is a factor to it.

    Raises:
        TypeError: If the objective compares with labels.
    """

    def __init__(self, objective: Objective, *, plan: Plan | None = None, weight: float | Schedule = 1.0) -> None:
        if not isinstance(objective, Objective) or objective.target != "teacher":
            raise TypeError(f"a pair of layers needs an objective that compares with a teacher, got {objective!r}")
        self.objective = objective
        self.plan = plan
        self.weight = _checked(weight)

    @property
    def name(self) -> str:
        """What stands for it before the pairs are known."""
        return f"{_default_name(self.objective, LOGITS)} of every pair"

    def terms(self, plan: Plan) -> list[Term]:
        """Return the terms, one for each pair."""
        layers = [pair.student.layer for pair in plan.pairs]
        terms = []
        for pair in plan.pairs:
            name = None
            if layers.count(pair.student.layer) > 1:
                # One layer of the student learns from several of the teacher.
                name = f"{_default_name(self.objective, pair.student.layer)}~{pair.teacher.layer}"
            term = Term(
                copy.deepcopy(self.objective),
                student=pair.student.layer,
                teacher=pair.teacher.layer,
                weight=self.weight.times(pair.weight)
                if isinstance(self.weight, Schedule)
                else self.weight * pair.weight,
                connector=copy.deepcopy(pair.connector),
                name=name,
                student_layout=pair.student.layout,
                teacher_layout=pair.teacher.layout,
            )
            term.pair_weight = pair.weight
            terms.append(term)
        return terms


def plan_of(terms: Sequence[Term]) -> Plan | None:
    """Return the plan that connected terms amount to; None if none of them compares layers."""
    pairs: dict[tuple[str, str], LayerPair] = {}
    for term in terms:
        if term.layer_pair is not None:
            pair = term.layer_pair
            pairs.setdefault((pair.student.layer, pair.teacher.layer), pair)
    return Plan(list(pairs.values())) if pairs else None


def _checked(weight: float | Schedule) -> float | Schedule:
    if not isinstance(weight, (Real, Schedule)):
        raise TypeError(f"weight must be a number or a Schedule, got {weight!r}")
    if isinstance(weight, Schedule):
        return weight
    if not 0 <= float(weight) < math.inf:
        raise ValueError(f"weight must be finite and not negative, got {weight}")
    return float(weight)


def _layout(given: Layout | None, found: Layout | None) -> Layout | None:
    """Return the layout that a user gave, completed by what was found out."""
    if given is None or found is None:
        return given or found
    return given.completed(found)


def _planned(layer: str, shape: Sequence[int], layout: Layout | None) -> PlannedTensor:
    layout = plain_layout(shape) if layout is None else layout
    return PlannedTensor(layer, layout, shape[layout.channel_dim])


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
