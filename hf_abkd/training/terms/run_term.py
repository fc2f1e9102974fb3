"""RunTerm: what a run makes of a term; the one place that detaches, leaves autocast, casts and checks shapes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from hf_abkd.boundaries.packing import unpack_signs
from hf_abkd.layers.chosen_units import ChosenUnits
from hf_abkd.layers.connection import Connection, Kind, Side
from hf_abkd.layers.connectors import ClassPositions, ClassSelection, HasLinearMap, LinearMap
from hf_abkd.layers.layer_pair import LayerPair, PlannedTensor
from hf_abkd.layers.layout import Layout
from hf_abkd.layers.plan import Plan
from hf_abkd.models.kept_state import evaluating
from hf_abkd.models.outputs import LOGITS
from hf_abkd.objectives import Objective, boundary_agreement
from hf_abkd.objectives.objective import Known
from hf_abkd.stages.schedules import Schedule
from hf_abkd.stages.term import Names, Term

#: One tensor, or those of several layers.
Tensors = Tensor | Sequence[Tensor]


class RunTerm(nn.Module):
    """A term of a run: a copy of the objective, the connector, and the form in which the teacher's tensor is compared.

    Args:
        term: What the user wrote.
        copied: What was copied already, for `copy.deepcopy`: a module that several terms share stays shared.

    Attributes:
        term: What the user wrote.
        objective: The run's own copy of the formula.
        connector: What the student's tensor goes through; None before it was made, and where there is none.
        target_form: What the teacher's tensor goes through.
        label_form: What the labels go through, where only some of the classes are compared.
        balance: The factor that `balance_terms` has found; 1 otherwise.
        factor: That of the stage that runs, over the stage; None for none.
        layer_pairs: The pairs of layers that are compared, once they were connected; none for logits and labels.
    """

    def __init__(self, term: Term, copied: dict[int, Any] | None = None) -> None:
        super().__init__()
        copied = {} if copied is None else copied
        self.term = term
        self.objective: Objective = copy.deepcopy(term.objective, copied)
        given = term.connector
        self.connector_kind: Kind | None = given if isinstance(given, str) else None
        self.connector: nn.Module | None = copy.deepcopy(given, copied) if isinstance(given, nn.Module) else None
        self.target_form: nn.Module = nn.Identity()
        self.label_form: nn.Module = nn.Identity()
        self.balance = 1.0
        self.factor: Schedule | None = None
        self.layer_pairs: tuple[LayerPair, ...] = ()
        self._teacher_shapes: tuple[tuple[int, ...], ...] = ()
        # How many classes are compared, where it is not all of the teacher's in its order.
        self._classes = 0
        self._teacher_head: Callable[[], nn.Module] | None = None
        self._may_be_linear = isinstance(self.connector, HasLinearMap)

    # ---- What the term says ----

    @property
    def name(self) -> str:
        """What it is called in logs and cards."""
        return self.term.name

    @property
    def layer(self) -> str:
        """What the agreement of a boundary term is logged as."""
        return self.term.layer

    @property
    def rows(self) -> str | None:
        """Which rows of a training batch are compared; None for all of them."""
        return self.term.rows

    @property
    def weight(self) -> float | Schedule:
        """The weight, without the factor of `balance_terms`."""
        return self.term.weight

    @property
    def student(self) -> Names:
        """The tensor of the student, or the tensors."""
        return self.term.student

    @property
    def teacher(self) -> Names | None:
        """The tensor of the teacher, or the tensors; None if it compares with none."""
        return self.term.teacher

    @property
    def student_names(self) -> tuple[str, ...]:
        """The tensors of the student, also where it is one."""
        return self.term.student_names

    @property
    def teacher_names(self) -> tuple[str, ...]:
        """The tensors of the teacher; none for a term that compares with none of them."""
        return self.term.teacher_names

    @property
    def wants_teacher(self) -> bool:
        """Whether a teacher has to be there."""
        return self.term.wants_teacher

    @property
    def is_of_task(self) -> bool:
        """Whether it compares with labels and with no teacher."""
        return self.term.is_of_task

    @property
    def compares_logits(self) -> bool:
        """Whether it compares the logits of both models."""
        return self.student == self.teacher == LOGITS

    @property
    def compares_classes(self) -> bool:
        """Whether it compares logits class by class: of both models, or of an exit that learns the labels, too."""
        return self.teacher == LOGITS and (self.student == LOGITS or self.needs("labels"))

    @property
    def is_before_activation(self) -> bool:
        """Whether a module that it names without a side stands for the input of its activation."""
        return self.objective.boundary or self.objective.before_activation

    def needs(self, what: str) -> bool:
        """Whether the objective needs this beside the student's tensor; see `Objective.needs`."""
        return what in self.objective.needs

    def weight_at(self, progress: float) -> float:
        """Return the weight when this share of the stage is done, from 0 to 1."""
        factor = 1.0 if self.factor is None else self.factor(progress)
        return self.balance * factor * self.term.weight_at(progress)

    @property
    def changes(self) -> bool:
        """Whether its weight is another one than that which the user wrote."""
        return isinstance(self.weight, Schedule) or self.balance != 1 or self.factor is not None

    def describe(self) -> dict[str, str]:
        """Return what defines this term, for checkpoints, logs and cards."""
        connector = {} if self.connector is None else {"connector": type(self.connector).__name__}
        return {**self.term.describe(), "objective": repr(self.objective), **connector}

    # ---- How it is connected ----

    def connect(self, student: Sequence[Side], teacher: Sequence[Side] = ()) -> None:
        """Make the connector, once the shapes of both sides are known.

        Args:
            student: The student's tensors, with their layouts as far as they were found out; the user's word goes
                first.
            teacher: Likewise the teacher's.

        Raises:
            ValueError: If no connector maps the one to the other.
            TypeError: If the connection has weights that the objective does not declare.
        """
        self._teacher_shapes = tuple(tuple(side.shape[1:]) for side in teacher)
        student = [Side(tuple(side.shape), _layout(self.term.student_layout, side.layout)) for side in student]
        teacher = [Side(tuple(side.shape), _layout(self.term.teacher_layout, side.layout)) for side in teacher]
        if self.connector is None:
            try:
                compared = [Side((side.shape[0], self._classes)) for side in teacher] if self._classes else teacher
                proposed = self.objective.connect(student, compared, self.connector_kind or "auto")
            except ValueError as error:
                raise ValueError(f"term {self.name!r} ({self.term.pair}): {error}") from error
            if proposed is not None:
                self.connector = proposed.connector
                self.target_form = self.target_form if self._classes else proposed.target_form
            connection, description = proposed, "" if proposed is None else proposed.description
        else:
            # Of the user's, or made in an earlier run over the same layers.
            connection = Connection(self.connector, self.target_form, type(self.connector).__name__)
            description = self.layer_pairs[0].description if self.layer_pairs else connection.description
        self._check_weights()
        self._may_be_linear = isinstance(self.connector, HasLinearMap)
        if connection is not None and teacher and LOGITS not in (*self.student_names, *self.teacher_names):
            self.layer_pairs = tuple(
                self._layer_pair(number, one, other, connection, description)
                for number, (one, other) in enumerate(zip(student, teacher, strict=True))
            )

    def _layer_pair(
        self, number: int, student: Side, teacher: Side, connection: Connection, description: str
    ) -> LayerPair:
        weight = self.term.pair_weight
        if weight is None:
            weight = self.weight if isinstance(self.weight, float) else 1.0
        return LayerPair(
            _planned(self.student_names[number], student),
            _planned(self.teacher_names[number], teacher),
            weight,
            self.connector_kind or connection.connector,
            description,
            connection.parameters,
            connection.units,
        )

    def _check_weights(self) -> None:
        """Refuse weights of the objective or of the teacher's side that are not declared."""
        undeclared = [*self.objective.parameters(), *self.target_form.parameters()]
        if undeclared and not self.objective.trains:
            raise TypeError(
                f"{type(self.objective).__name__} of term {self.name!r} has weights of its own; say so in its class, "
                "`trains = True`, if they are to be trained with the student, or make them buffers"
            )

    def connect_classes(self, student_classes: Sequence[int], teacher_classes: Sequence[int]) -> None:
        """Compare the logits of some classes only: of each model these, in this order; an exit has no others."""
        if self.connector is None:
            if self.compares_logits:
                self.connector = ClassSelection(student_classes)
            self.target_form = ClassSelection(teacher_classes)
            self.label_form = ClassPositions(student_classes)
            self._classes = len(teacher_classes)

    def give_head(self, head: nn.Module) -> None:
        """Take on the teacher's last layer. It is not part of this module: it is neither trained nor saved."""
        self._teacher_head = lambda: head

    def begin(
        self,
        targets: Sequence[Tensor] = (),
        samples: int | None = None,
        normalizations: Sequence[nn.Module | None] = (),
    ) -> None:
        """Tell the objective what is known of the run; the term is connected.

        Args:
            targets: An example of each of the teacher's tensors.
            samples: How many images the training set has; None where that is not known.
            normalizations: For each of the teacher's tensors the BatchNorm whose output it is, or None.

        Raises:
            ValueError: If the objective cannot do with that.
        """
        asks = self.objective.asks
        shapes: tuple[tuple[int, ...], ...] = ()
        if targets:
            with evaluating(self), torch.no_grad():
                formed = self.form(targets[0] if isinstance(self.teacher, str) else targets)
            shapes = tuple(tuple(tensor.shape) for tensor in ((formed,) if isinstance(formed, Tensor) else formed))
        known = Known(
            shapes,
            samples if "samples" in asks else None,
            tuple(normalizations) if "normalizations" in asks else (None,) * len(targets),
        )
        try:
            self.objective.begin(known)
        except ValueError as error:
            raise ValueError(f"term {self.name!r} ({self.term.pair}): {error}") from error

    # ---- What it computes ----

    def adapt(self, student: Tensors) -> Tensors:
        """Return the student's tensor behind the connector, in float32; of several layers all of them."""
        adapted = student if self.connector is None else self.connector(student)
        return adapted.float() if isinstance(adapted, Tensor) else tuple(tensor.float() for tensor in adapted)

    def form(self, target: Tensors) -> Tensors:
        """Return the teacher's tensor, detached, in the form in which it is compared.

        Packed signs (uint8) become bools, those of chosen units without the others being read; other values become
        float32 where they are compared, or before weights of the run's own, which are in float32, change them.
        """
        given = (target,) if isinstance(target, Tensor) else tuple(target)
        shapes = self._teacher_shapes or tuple(tuple(tensor.shape[1:]) for tensor in given)
        chooses = isinstance(self.target_form, ChosenUnits)
        detached = [
            unpack_signs(tensor, shape) if tensor.dtype == torch.uint8 and not chooses else tensor.detach()
            for tensor, shape in zip(given, shapes, strict=True)
        ]
        if next(self.target_form.parameters(), None) is not None:
            detached = [tensor.float() if tensor.is_floating_point() else tensor for tensor in detached]
        formed: Tensors = self.target_form(detached[0] if isinstance(target, Tensor) else detached)
        return formed

    def forward(self, student: Tensors, **given: Any) -> Tensor:
        """Return the value of the objective, without its weight, shape ().

        Args:
            student: The student's tensor behind the connector (see `adapt`).
            **given: What the objective needs beside it: `teacher`, the teacher's tensor in the same form (see `form`),
                `labels` and so on.

        Raises:
            ValueError: If the shapes do not fit, or the objective returns anything but one number.
        """
        if "teacher" in given:
            given["teacher"] = self._comparable(student, given["teacher"])
        device = _first(student).device
        # Half precision would overflow in the sums of squares: the objective runs in float32 whatever surrounds it.
        with torch.autocast(device_type=device.type, enabled=False):
            if len(given) == 1:
                value: Tensor = self.objective(student, *given.values())
            else:
                value = self.objective(student, **given)
        # A loss per sample would be summed without a word, and train at a rate that grows with the batch.
        if not isinstance(value, Tensor) or value.ndim > 0:
            got = (
                f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"the {type(value).__name__} {value!r}"
            )
            raise ValueError(
                f"the objective of term {self.name!r}, {type(self.objective).__name__}, must return one number as a "
                f"tensor of shape (), the mean over the samples, and returned {got}"
            )
        return self._of_all(value)

    def _of_all(self, value: Tensor) -> Tensor:
        """Return the value of all units, where it is a sum over some of them."""
        # Not of the objective, which several terms may share.
        form = self.target_form
        if isinstance(form, ChosenUnits) and self.objective.sums_units:
            return value * (form.total / form.count)
        return value

    def _comparable(self, student: Tensors, target: Tensors) -> Tensors:
        """Return the teacher's tensor as the objective takes it: detached, in float32, and of the student's shape."""
        if isinstance(target, Tensor) and isinstance(student, Tensor):
            return self._comparable_tensor(student, target)
        if isinstance(target, Tensor) or isinstance(student, Tensor) or len(student) != len(target):
            raise ValueError(
                f"term {self.name!r} compares other numbers of tensors on its two sides ({self.term.pair})"
            )
        return tuple(self._comparable_tensor(one, other) for one, other in zip(student, target, strict=True))

    def _comparable_tensor(self, student: Tensor, target: Tensor) -> Tensor:
        if target.dtype == torch.bool:
            # Of a boundary, the sides alone may be known.
            if not self.objective.boundary:
                raise ValueError(
                    f"term {self.name!r} compares values, and of the teacher only the signs are known "
                    f"({self.term.pair})"
                )
        elif not self.objective.trains:
            target = target.detach().float()
        else:
            # The teacher's tensor was detached before weights of the run's own changed it.
            target = target.float()
        if self.objective.equal_shapes and student.shape != target.shape:
            raise ValueError(
                f"term {self.name!r} compares {tuple(student.shape)} with {tuple(target.shape)} ({self.term.pair}). "
                + _shape_help(self.compares_logits)
            )
        return target

    def compare(self, student: Tensors, given: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
        """Return the value and, of a boundary, the agreement per sample, (N,), without a graph.

        The same as `forward` behind `adapt` and `form`, where it can be in one pass with the connector.

        Args:
            student: The student's tensor.
            given: What the objective needs beside it, by name, as the teacher and the batch give it.

        Raises:
            ValueError: If the two do not fit.
        """
        formed = self.formed(given)
        target = formed.get("teacher")
        if (linear_map := self._linear_map(student)) is not None and isinstance(target, Tensor):
            together = self.objective.in_one_pass(_first(student), linear_map, target)
            if together is not None:
                return self._of_all(together[0]), together[1]
        adapted = self.adapt(student)
        return self(adapted, **formed), self.agreement(adapted, formed)

    def formed(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the objective needs in the form in which it is given to it."""
        formed = dict(given)
        if "teacher" in formed:
            formed["teacher"] = self.form(formed["teacher"])
        if "labels" in formed:
            formed["labels"] = self.label_form(formed["labels"])
        if self.needs("teacher_head"):
            formed["teacher_head"] = self._head
        return formed

    def agreement(self, adapted: Tensors, formed: Mapping[str, Any]) -> Tensor | None:
        """Return, of a boundary, the agreement per sample, (N,); the arguments are those of `forward`."""
        if not self.objective.boundary:
            return None
        with torch.no_grad():
            return boundary_agreement(_first(adapted), _first(formed["teacher"]))

    def _linear_map(self, student: Tensors) -> Callable[[Tensor], LinearMap | None] | None:
        """Return what says which linear map the connector is; None if it is asked for its output in any case."""
        connector = self.connector
        if connector is None or not self._may_be_linear or not isinstance(student, Tensor):
            return None
        # A hook wants to see what the connector returns.
        if connector._forward_hooks or connector._forward_pre_hooks:
            return None
        return cast(HasLinearMap, connector).linear_map

    def _head(self, features: Tensor) -> Tensor:
        """Return what the teacher's last layer makes of some features, (N, K), in float32; its weights stay."""
        if self._teacher_head is None:
            raise RuntimeError(f"term {self.name!r} has not been given the teacher's last layer")
        head = self._teacher_head()
        weights = {name: tensor.detach().float() for name, tensor in head.state_dict().items()}
        logits: Tensor = torch.func.functional_call(head, weights, (features,))
        return logits


def plan_of(terms: Sequence[RunTerm]) -> Plan | None:
    """Return the plan that connected terms amount to; None if none of them compares layers."""
    pairs: dict[tuple[str, str], LayerPair] = {}
    for pair in (pair for term in terms for pair in term.layer_pairs):
        pairs.setdefault((pair.student.layer, pair.teacher.layer), pair)
    return Plan(list(pairs.values())) if pairs else None


def _first(tensors: Tensors) -> Tensor:
    return tensors if isinstance(tensors, Tensor) else tensors[0]


def _layout(given: Layout | None, found: Layout | None) -> Layout | None:
    """Return the layout that a user gave, completed by what was found out."""
    if given is None or found is None:
        return given or found
    return given.completed(found)


def _planned(layer: str, side: Side) -> PlannedTensor:
    layout = side.layout_or_plain
    return PlannedTensor(layer, layout, side.shape[layout.channel_dim])


def _shape_help(logits: bool) -> str:
    if logits:
        return (
            "The two models have label spaces of different sizes. Use a teacher with the student's classes, or terms "
            "on features and a `connector='linear'` head instead of the logits."
        )
    return "Give the term a connector from the one shape to the other."
