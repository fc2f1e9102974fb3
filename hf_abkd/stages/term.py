"""Terms: what a user writes of the parts of a loss, as data; a run makes its own counterpart of each."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from numbers import Real

from torch import nn

from hf_abkd.layers.connection import KINDS, Kind
from hf_abkd.layers.layer_pair import LayerPair
from hf_abkd.layers.layout import Layout
from hf_abkd.layers.plan import Plan
from hf_abkd.models.outputs import LOGITS
from hf_abkd.objectives import OBJECTIVES, Objective
from hf_abkd.objectives.objective import NEIGHBOURS, PAIRS, Pairs
from hf_abkd.settings import number
from hf_abkd.stages.schedules import Schedule

# Keys of a log line that are not a term's.
_RESERVED_NAMES = frozenset({"loss", "grad_norm", "learning_rate", "epoch", "step", "stage", "total_flos"})
_RESERVED_BEGINNINGS = ("eval_", "train_", "weight/", "boundary_agreement/")

Names = str | Sequence[str]


def may_name_term(name: str) -> bool:
    """Whether a term may be called so: other numbers of a log line have names of their own."""
    return name not in _RESERVED_NAMES and not name.startswith(_RESERVED_BEGINNINGS)


@dataclass(frozen=True, eq=False, repr=False)
class Term:
    """One part of the loss of a stage: a weight times an objective of a tensor of the student.

    A term is data and never changes. Each run works with its own copy of the objective and of the connector, so that
    one term serves in several trainers. A term that stands in two stages of a run keeps its connector.

    Args:
        objective: The formula.
        student: Which tensor of the student: `"logits"`, or the name of a module, optionally with a side:
            `"encoder.stages.0:output"`, `"encoder.stages.0:input"`. Without a side it is the module's output or, for
            a boundary objective, the input of the activation that produces the module's output. A list of names for
            an objective that compares several layers.
        teacher: Likewise for the teacher. None for an objective that needs no tensor of it; for the others it
            is `"logits"` when `student` is.
        weight: A number, or a `Schedule` over the stage.
        connector: A module that brings the student's tensor to the teacher's shape. `"auto"` takes what the objective
            proposes: usually a choice by shapes and layouts (identity where they are equal); `"identity"`, `"map"`,
            `"tokens"` and `"linear"` (an extra linear head) ask for one; see `hf_abkd.layers.connection.connect`.
        name: What it is called in logs and cards; by default the objective's, with the student's module.
        student_layout: How the student's tensor lies, if that cannot be found out by running the model.
        teacher_layout: Likewise the teacher's.
        rows: Which rows of a training batch are compared, where a batch is made of several kinds (see
            `hf_abkd.data.batch.Batch`). None compares all of them.
        pair_weight: The weight of its layers in a plan, where `weight` is more than that.

    Raises:
        TypeError: If the objective is none, or the weight is neither a number nor a schedule.
        ValueError: If the sources do not fit the objective, or a weight is negative.

    Example:
        >>> from hf_abkd import ActivationBoundary, Term
        >>> term = Term(ActivationBoundary(), student="layer1", teacher="layer2", weight=2)
        >>> term.name, term.weight
        ('activation_boundary/layer1', 2.0)
    """

    objective: Objective
    _: KW_ONLY
    student: Names = LOGITS
    teacher: Names | None = None
    weight: float | Schedule = 1.0
    connector: nn.Module | Kind = "auto"
    name: str = ""
    student_layout: Layout | None = None
    teacher_layout: Layout | None = None
    rows: str | None = None
    pair_weight: float | None = None

    def __post_init__(self) -> None:
        """Check everything that can be checked without models, and fill in what was left out."""
        if not isinstance(self.objective, Objective):
            raise TypeError(
                f"a term needs an objective, one of {sorted(kind.__name__ for kind in OBJECTIVES.values())} or your "
                f"own subclass of Objective; got {self.objective!r}"
            )
        set_once = object.__setattr__
        set_once(self, "student", _names(self.student))
        set_once(self, "teacher", self._teacher_names())
        _check_layers(self.objective, self.student, "student")
        if self.teacher is not None:
            _check_layers(self.objective, self.teacher, "teacher")
        set_once(self, "weight", checked_weight(self.weight))
        if not may_name_term(self.name or ""):
            raise ValueError(f"a term cannot be named {self.name!r}: the log uses that name for something else")
        if not isinstance(self.connector, nn.Module) and self.connector not in KINDS:
            raise ValueError(f"connector must be one of {list(KINDS)} or a module, got {self.connector!r}")
        set_once(self, "name", self.name or self._default_name())

    def _default_name(self) -> str:
        return default_name(self.objective, self.student) + (f"@{self.rows}" if self.rows else "")

    def _teacher_names(self) -> Names | None:
        """Return what the term is compared with of the teacher, if anything.

        Raises:
            ValueError: If that does not fit the objective.
        """
        kind = type(self.objective).__name__
        if "teacher" not in self.objective.needs:
            if self.teacher is not None:
                raise ValueError(f"{kind} compares with the {self.target}; leave teacher={self.teacher!r} out")
            if self.connector == "linear":
                raise ValueError(
                    f"a linear head on {self.student!r} needs the number of classes; give connector=nn.Sequential("
                    "nn.Flatten(), nn.Linear(features, classes))"
                )
            return None
        if self.teacher is None and self.student != LOGITS:
            raise ValueError(f"say which tensor of the teacher {self.student!r} is compared with: teacher='...'")
        return LOGITS if self.teacher is None else _names(self.teacher)

    @property
    def student_names(self) -> tuple[str, ...]:
        """The tensors of the student, also where it is one."""
        return _tuple(self.student)

    @property
    def teacher_names(self) -> tuple[str, ...]:
        """The tensors of the teacher; none for a term that compares with none of them."""
        return () if self.teacher is None else _tuple(self.teacher)

    @property
    def wants_teacher(self) -> bool:
        """Whether a teacher has to be there."""
        return bool(self.teacher_names) or "teacher_head" in self.objective.needs

    @property
    def is_of_task(self) -> bool:
        """Whether it compares with labels and with no teacher: it is of the task, and not of distillation."""
        return "labels" in self.objective.needs and not self.wants_teacher

    @property
    def target(self) -> str:
        """What it compares with besides tensors of the teacher, in words: "labels" or "domains"."""
        return " and ".join(need for need in sorted(self.objective.needs) if need != "teacher") or "nothing"

    @property
    def layer(self) -> str:
        """What the agreement of a boundary term is logged as: the layer, unless the user gave the term a name."""
        return _text(self.student) if self.name == self._default_name() else self.name

    @property
    def pair(self) -> str:
        """The two sources, for messages."""
        return f"student {self.student!r}, {self.target if self.teacher is None else f'teacher {self.teacher!r}'}"

    def weight_at(self, progress: float) -> float:
        """Return the weight when this share of the stage is done, from 0 to 1."""
        return self.weight(progress) if isinstance(self.weight, Schedule) else self.weight

    def describe(self) -> dict[str, str]:
        """Return what defines this term, for checkpoints, logs and cards."""
        given = self.connector
        return {
            "name": self.name,
            "objective": repr(self.objective),
            "student": _text(self.student),
            "teacher": self.target if self.teacher is None else _text(self.teacher),
            "weight": repr(self.weight),
            "connector": type(given).__name__ if isinstance(given, nn.Module) else given,
            **({} if self.rows is None else {"rows": self.rows}),
        }

    def __repr__(self) -> str:
        """Show the term as it would be written, without what is as it always is."""
        settings = [f"student={self.student!r}", f"teacher={self.teacher!r}", f"weight={self.weight!r}"]
        settings += [f"connector={self.connector!r}"] if self.connector != "auto" else []
        settings += [f"name={self.name!r}"] if self.name != self._default_name() else []
        settings += [f"rows={self.rows!r}"] if self.rows is not None else []
        return f"Term({self.objective!r}, {', '.join(settings)})"

    def __eq__(self, other: object) -> bool:
        """Whether another term says the same: equal objectives, and the same module as connector."""
        return self._content() == other._content() if isinstance(other, Term) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._content())

    def _content(self) -> tuple[object, ...]:
        # Two objectives that hold tensors are the same only if they are one.
        stateful = any(True for _ in self.objective.state_dict())
        objective = self.objective if stateful else (type(self.objective), repr(self.objective))
        sources = (self.student, self.teacher, self.student_layout, self.teacher_layout, self.rows)
        return (objective, *sources, self.weight, self.connector, self.name, self.pair_weight)


@dataclass(frozen=True)
class PairedTerms:
    """One term for every pair of layers of a plan; a stage may hold it in the place of terms.

    Args:
        objective: The formula; every pair has a copy.
        plan: The pairs. None lets the trainer propose them from one batch.
        weight: The weight of all of them; a pair's own weight is a factor to it.
        pairs: Which are proposed without a plan: `"all"`, the `"last"` alone, or `"head"`, what the last layers of the
            two models read. None takes what the objective says of itself (`Objective.pairs`). Of one that compares
            `"neighbours"` there is a term for each pair of the plan with the one behind it.

    Raises:
        TypeError: If the objective compares nothing of the teacher, or a fixed number of layers that are no neighbours.
        ValueError: If both a plan and `pairs` are given, or there are no such pairs.

    Example:
        >>> from hf_abkd.layers.plan import Plan
        >>> from hf_abkd.objectives import ActivationBoundary
        >>> from hf_abkd.stages.term import PairedTerms
        >>> plan = Plan.of_names([("layer1", "layer2"), ("layer3", "layer4")])
        >>> [term.student for term in PairedTerms(ActivationBoundary()).terms(plan)]
        ['layer1', 'layer3']
    """

    objective: Objective
    _: KW_ONLY
    plan: Plan | None = None
    weight: float | Schedule = 1.0
    pairs: Pairs | None = None

    def __post_init__(self) -> None:
        """Check that the objective compares pairs of layers."""
        if not isinstance(self.objective, Objective) or "teacher" not in self.objective.needs:
            raise TypeError(f"a pair of layers needs an objective that compares with a teacher, got {self.objective!r}")
        if not pairs_layers(type(self.objective)):
            raise TypeError(
                f"{type(self.objective).__name__} compares several layers at once; write its terms out: "
                "Term(objective, student=[...], teacher=[...])"
            )
        if self.pairs is not None and self.plan is not None:
            raise ValueError(f"a plan says which layers are paired; leave pairs={self.pairs!r} out")
        pairs = self.objective.pairs if self.pairs is None else self.pairs
        possible = [NEIGHBOURS] if self._of_neighbours else [one for one in PAIRS if one != NEIGHBOURS]
        if pairs not in possible:
            raise ValueError(f"pairs must be one of {possible}, got {pairs!r}")
        object.__setattr__(self, "weight", checked_weight(self.weight))

    def proposed(self, plan: Callable[[], Plan], heads: Callable[[], Plan]) -> list[Term]:
        """Return the terms, one for each pair of its plan, or of one that is proposed.

        Args:
            plan: Proposes pairs of layers, from the input of the models to their output.
            heads: Proposes the pair of what the last layers of the models read.
        """
        pairs = self.objective.pairs if self.pairs is None else self.pairs
        if self.plan is not None:
            return self.terms(self.plan)
        if pairs == "head":
            return self.terms(heads())
        return self.terms(Plan(plan().pairs[-1:] if pairs == "last" else plan().pairs))

    @property
    def _of_neighbours(self) -> bool:
        return self.objective.pairs == NEIGHBOURS

    @property
    def name(self) -> str:
        """What stands for it before the pairs are known."""
        return f"{default_name(self.objective, LOGITS)} of every pair"

    def terms(self, plan: Plan) -> list[Term]:
        """Return the terms, one for each pair; of an objective that compares several at once those that do.

        The objective of a single term is not copied: what it shares with terms of other stages it goes on sharing.

        Raises:
            ValueError: If the plan of such an objective has weights or connectors of its own, or a single pair for
                one that compares neighbours.
        """
        if self.objective.layers is None:
            return [self._of_several(plan.pairs)]
        if self._of_neighbours:
            if len(plan.pairs) < 2:
                raise ValueError(
                    f"{type(self.objective).__name__} compares layers with those behind them, and there is one pair of "
                    f"layers alone, {plan.pairs[0].student.layer!r} and {plan.pairs[0].teacher.layer!r}; name more"
                )
            return list(map(self._of_several, itertools.pairwise(plan.pairs)))
        layers = [pair.student.layer for pair in plan.pairs]
        terms = []
        for pair in plan.pairs:
            name = ""
            if layers.count(pair.student.layer) > 1:
                # One layer of the student learns from several of the teacher.
                name = f"{default_name(self.objective, pair.student.layer)}~{pair.teacher.layer}"
            weight = self.weight
            term = Term(
                self.objective if len(plan.pairs) == 1 else copy.deepcopy(self.objective),
                student=pair.student.layer,
                teacher=pair.teacher.layer,
                weight=weight.times(pair.weight) if isinstance(weight, Schedule) else weight * pair.weight,
                connector=copy.deepcopy(pair.connector),
                name=name,
                student_layout=pair.student.layout,
                teacher_layout=pair.teacher.layout,
                pair_weight=pair.weight,
            )
            terms.append(term)
        return terms

    def _of_several(self, pairs: Sequence[LayerPair]) -> Term:
        if any(pair.weight != 1 or pair.connector != "auto" for pair in pairs):
            raise ValueError(
                f"{type(self.objective).__name__} compares the layers of a plan at once, and connects and weighs them "
                "itself: leave weights and connectors of single pairs out"
            )
        student, teacher = ([getattr(pair, side).layer for pair in pairs] for side in ("student", "teacher"))
        return Term(copy.deepcopy(self.objective), student=student, teacher=teacher, weight=self.weight)


def pairs_layers(kind: type[Objective]) -> bool:
    """Whether an objective compares any number of layers of a student and a teacher, so that a plan can name them."""
    fits = kind.layers in (1, None) or (kind.layers == 2 and kind.pairs == NEIGHBOURS)
    return fits and "teacher" in kind.needs


def checked_weight(weight: float | Schedule) -> float | Schedule:
    """Return a weight, a number as a float.

    Raises:
        TypeError: If it is neither a number nor a schedule.
        ValueError: If it is negative or not finite.
    """
    if isinstance(weight, bool) or not isinstance(weight, (Real, Schedule)):
        raise TypeError(f"weight must be a number or a Schedule, got {weight!r}")
    return weight if isinstance(weight, Schedule) else float(number("weight", weight, least=0))


def default_name(objective: Objective, student: Names) -> str:
    """Return what a term is called that was given no name: the objective, and the student's module."""
    table = {kind: name for name, kind in OBJECTIVES.items()}
    name = table.get(type(objective), type(objective).__name__)
    return name if student == LOGITS else f"{name}/{_text(student)}"


def _check_layers(objective: Objective, names: Names, role: str) -> None:
    """Refuse a term that names another number of tensors than its objective compares."""
    kind, layers = type(objective).__name__, objective.layers
    if layers == 1 and not isinstance(names, str):
        raise ValueError(f"{kind} compares one tensor of the {role}, and {role}={list(names)} names several")
    if layers != 1 and (isinstance(names, str) or len(names) != (layers or len(names)) or not names):
        number = "several layers" if layers is None else f"{layers} layers"
        raise ValueError(f"{kind} compares {number} at once; give {role} a list of their names, got {names!r}")


def _names(given: Names) -> Names:
    return given if isinstance(given, str) else tuple(given)


def _tuple(names: Names) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _text(names: Names) -> str:
    return ", ".join(_tuple(names))
