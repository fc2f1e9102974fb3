"""Stages: what is trained, by which terms, for how long; data that the trainer runs one after another."""

from __future__ import annotations

import copy
import fnmatch
import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from transformers import SchedulerType
from transformers.training_args import OptimizerNames

from hf_abkd.layers.plan import Plan
from hf_abkd.models.outputs import LOGITS
from hf_abkd.settings import number, whole_number
from hf_abkd.stages.arguments import quantization_grid, rising_shares
from hf_abkd.stages.extension import Extension
from hf_abkd.stages.extra_head import ExtraHead, without_shared_classes
from hf_abkd.stages.schedules import Schedule
from hf_abkd.stages.term import PairedTerms, Term
from hf_abkd.teachers.route.route import TeacherRoute


def _number(
    kind: Callable[[Any], Any], lowest: float, below: float = math.inf, *, or_lowest: bool = True
) -> Callable[[Any], Any]:
    """Return what turns a value into a number and refuses one outside its range."""

    def convert(value: Any) -> Any:
        number = kind(value)
        if number != float(value) or not lowest <= number < below or (number == lowest and not or_lowest):
            raise ValueError(
                f"it must be {'an integer' if kind is int else 'a number'}, {'at least' if or_lowest else 'above'} "
                f"{lowest:g}{f' and below {below:g}' if below < math.inf else ''}"
            )
        return number

    return convert


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("it must be True or False")
    return value


# The training arguments that a stage may set for itself, with what turns a user's value into the stored one and
# refuses an impossible one. The others concern the run as a whole: its folder, seed, precision, processes, evaluation
# and publishing.
STAGE_ARGUMENTS: dict[str, Callable[[Any], Any]] = {
    "learning_rate": _number(float, 0),
    "lr_scheduler_type": SchedulerType,
    "lr_scheduler_kwargs": dict,
    "lr_milestones": rising_shares,
    "lr_gamma": _number(float, 0, or_lowest=False),
    "warmup_steps": _number(float, 0),
    "optim": OptimizerNames,
    "optim_args": str,
    "weight_decay": _number(float, 0),
    "decay_norm_and_bias": _flag,
    "momentum_delta": _number(float, 0, 1),
    "adam_beta1": _number(float, 0, 1),
    "adam_beta2": _number(float, 0, 1),
    "adam_epsilon": _number(float, 0),
    "max_grad_norm": _number(float, 0),
    "per_device_train_batch_size": _number(int, 1),
    "gradient_accumulation_steps": _number(int, 1),
    "logging_steps": _number(float, 0, or_lowest=False),
    "quantize_aware": quantization_grid,
}


@dataclass
class Stage:
    """One stage of a distillation run.

    A run is a list of stages; each starts from the student that the one before left, with a fresh optimiser and
    schedule. Connectors live as long as their term: a `Term` object that stands in two stages keeps its connector.

    Args:
        terms: The loss: a weighted sum. `PairedTerms` stand for one term per pair of layers.
        name: What it is called in logs, the progress bar and the model card.
        freeze: Patterns (`*` matches anything) of names of student modules or parameters that are not trained;
            frozen modules stay in eval mode, so that their statistics do not move. Parameters that no term reaches
            are frozen without being named.
        epochs: How long, in passes over the training set. At most one of `epochs`, `steps` and `share` is given.
        steps: How long, in optimiser steps.
        share: How long, as a share of the run's `max_steps` or `num_train_epochs`. Stages without a length divide
            what is left evenly.
        optimizer: Class and keyword arguments of the optimiser, in the place of the `optim` argument.
        arguments: Training arguments that hold in this stage only; see `STAGE_ARGUMENTS`.
        suggested: Likewise, for those that the arguments of the run leave open (see `DistillationArguments`).
        enough_steps: How many steps it takes for the stage to pay; a run that has fewer for it is warned.
        teacher: Weights that the run's teacher has while the stage runs: a folder with `model.safetensors` of the same
            architecture, or a `TeacherRoute` of several, one after another. It has its own back afterwards.
        extension: Makes further images of each training batch; terms read them, or the batch's own, by their `rows`.
        teacher_terms: Terms that train the teacher in the same steps; their `student` is a tensor of the teacher, and
            one that compares logits compares the teacher's with the student's. The teacher is in training mode then,
            and changed for good.
        extra_head: What takes the place of terms that compare logits, if the teacher has other classes than the
            student. None leaves the terms as they are, and those are refused.
        factors: Schedules by which weights are multiplied while the stage runs, by the name of a term, or of an
            objective for all of its terms. So a term of an earlier stage goes on with a weight that falls.

    Raises:
        TypeError: If `teacher` is neither a folder nor a route, or a factor is no schedule.
        ValueError: If there is no term, two terms share a name, or a length or argument is not possible.

    Example:
        >>> from hf_abkd import CrossEntropy, KnowledgeDistillation, Stage, Term
        >>> terms = [Term(KnowledgeDistillation(), weight=0.9), Term(CrossEntropy(), weight=0.1)]
        >>> stage = Stage(terms, name="distillation", epochs=10, arguments={"learning_rate": 0.05})
        >>> [term.name for term in stage.terms]
        ['knowledge_distillation', 'cross_entropy']
    """

    terms: Sequence[Term | PairedTerms]
    name: str = ""
    freeze: Sequence[str] = ()
    epochs: float | None = None
    steps: int | None = None
    share: float | None = None
    optimizer: tuple[type[torch.optim.Optimizer], Mapping[str, Any]] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    suggested: Mapping[str, Any] = field(default_factory=dict)
    enough_steps: int | None = None
    teacher: str | os.PathLike[str] | TeacherRoute | None = None
    extension: Extension | None = None
    teacher_terms: Sequence[Term] = ()
    extra_head: ExtraHead | None = None
    factors: Mapping[str, Schedule] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check what can be checked without models and data."""
        where = f"stage {self.name!r}" if self.name else "a stage"
        if isinstance(self.teacher, (str, os.PathLike)):
            self.teacher = TeacherRoute([self.teacher])
        elif not isinstance(self.teacher, (TeacherRoute, type(None))):
            raise TypeError(
                f"{where}: teacher must be a folder with weights for the run's teacher, or a TeacherRoute of several, "
                f"got {type(self.teacher).__name__}. The model itself is the `teacher` of the trainer."
            )
        if not self.terms:
            raise ValueError(f"{where} has no terms, so nothing would be trained")
        names = [term.name for term in (*self.terms, *self.teacher_terms)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{where} has several terms named {twice}; give each its own `name`")
        if odd := [term.name for term in self.teacher_terms if term.wants_teacher and not _compares_logits(term)]:
            raise ValueError(
                f"{where}: the terms {odd} train the teacher, and compare with layers of a teacher, which it has none "
                "of; its own terms compare with labels, domains or, logits with logits, with the student"
            )
        if self.teacher_terms and (self.teacher is not None or self.extension is not None):
            raise ValueError(
                f"{where} trains the teacher: it cannot take on other weights (teacher=...) or move images to the "
                "boundaries of a teacher that moves (extension=...) at the same time"
            )
        if numbers := {name: one for name, one in self.factors.items() if not isinstance(one, Schedule)}:
            raise TypeError(f"{where}: factors are schedules by the names of terms or objectives, got {numbers}")
        known = {*names, *(name.partition("/")[0].removesuffix(" of every pair") for name in names)}
        if unknown := sorted(set(self.factors) - known):
            raise ValueError(f"{where} has a factor for {unknown}; its terms are {names}")
        if isinstance(self.freeze, str):
            raise ValueError(f"{where}: freeze must be a list of patterns, write [{self.freeze!r}]")
        lengths = {"epochs": self.epochs, "steps": self.steps, "share": self.share}
        given = {key: value for key, value in lengths.items() if value is not None}
        if len(given) > 1:
            raise ValueError(f"{where} has several lengths: {given}; give one of epochs, steps and share")
        for key, value in given.items():
            if key == "steps":
                whole_number(f"{where}: steps", value, least=1)
            else:
                number(f"{where}: {key}", value, above=0, most=1 if key == "share" else None)
        for arguments in (self.arguments, self.suggested):
            _check_arguments(arguments, where)

    @property
    def route(self) -> TeacherRoute | None:
        """The weights that the teacher takes on while the stage runs; None if it keeps its own."""
        return self.teacher if isinstance(self.teacher, TeacherRoute) else None

    def factor_of(self, term: str) -> Schedule | None:
        """Return by what the weight of a term is multiplied; None for nothing.

        Args:
            term: The name of the term.
        """
        return self.factors.get(term, self.factors.get(term.partition("/")[0]))

    def all_terms(self) -> list[Term]:
        """Return the terms of the student, and behind them those of the teacher."""
        return [*self.each_term(), *self.teacher_terms]

    def each_term(self) -> list[Term]:
        """Return the terms, once the pairs of layers are known.

        Raises:
            RuntimeError: If they are not: the trainer completes its stages by `completed`.
        """
        terms = [term for term in self.terms if isinstance(term, Term)]
        if len(terms) != len(self.terms):
            raise RuntimeError(f"the layers of stage {self.name!r} are not paired yet")
        return terms

    def describe(self) -> dict[str, Any]:
        """Return what defines this stage, for checkpoints, logs and cards."""
        optimizer = None
        if self.optimizer is not None:
            optimizer = f"{self.optimizer[0].__name__}({', '.join(f'{k}={v!r}' for k, v in self.optimizer[1].items())})"
        return {
            "name": self.name,
            "terms": [term.describe() for term in self.each_term()],
            "freeze": list(self.freeze),
            "optimizer": optimizer,
            "arguments": {key: str(value) for key, value in self.arguments.items()},
            **({"teacher_terms": [term.describe() for term in self.teacher_terms]} if self.teacher_terms else {}),
            **({} if self.route is None else {"teacher": self.route.describe()}),
            **({} if self.extension is None else {"extension": repr(self.extension)}),
            **({"factors": {name: repr(one) for name, one in self.factors.items()}} if self.factors else {}),
        }


def _compares_logits(term: Term) -> bool:
    return term.student == term.teacher == LOGITS and "teacher_head" not in term.objective.needs


def _check_arguments(arguments: Mapping[str, Any], where: str) -> None:
    """Refuse training arguments that no stage may set, and impossible values."""
    if unknown := sorted(set(arguments) - set(STAGE_ARGUMENTS)):
        raise ValueError(
            f"{where} cannot set {unknown}; a stage may set {sorted(STAGE_ARGUMENTS)}. "
            "Other training arguments hold for the whole run."
        )
    for key, value in arguments.items():
        try:
            STAGE_ARGUMENTS[key](value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {key}={value!r} is not possible: {error}") from error


def frozen_parts(student: nn.Module, patterns: Sequence[str]) -> tuple[list[nn.Module], set[str]]:
    """Return the modules and the names of the parameters that the patterns freeze.

    Raises:
        ValueError: If a pattern matches nothing.
    """
    modules = dict(student.named_modules())
    parameters = dict(student.named_parameters())
    frozen: list[nn.Module] = []
    names: set[str] = set()
    for pattern in patterns:
        matched_modules = [name for name in modules if name and fnmatch.fnmatchcase(name, pattern)]
        matched_parameters = [name for name in parameters if fnmatch.fnmatchcase(name, pattern)]
        if not matched_modules and not matched_parameters:
            raise ValueError(
                f"freeze={pattern!r} matches no module and no parameter of {type(student).__name__}; "
                f"its parts are {[name for name, _ in student.named_children()]}, and '*' matches anything"
            )
        frozen += [modules[name] for name in matched_modules]
        names |= set(matched_parameters)
        names |= {other for other in parameters for name in matched_modules if other.startswith(name + ".")}
    return frozen, names


def completed(
    stages: Sequence[Stage],
    propose: Callable[[], Plan],
    propose_heads: Callable[[], Plan],
    head_input: Callable[[], str | None] = lambda: None,
) -> list[Stage]:
    """Return the stages with a term for each pair of layers in the place of their `PairedTerms`, and their extra heads.

    `PairedTerms` that stand in two stages become the same terms in both, so that connectors go on where they were, and
    so do extra heads. What is changed in the given stages afterwards does not reach those that are returned.

    Args:
        stages: The stages.
        propose: Makes the plan of those without one; called at most once.
        propose_heads: Likewise the pair of what the last layers of student and teacher read.
        head_input: Returns the tensor of the student that an extra head reads, or None if none is needed, as the
            teacher has the student's classes; called at most once.
    """
    propose, propose_heads = functools.cache(propose), functools.cache(propose_heads)
    head_input = functools.cache(head_input)
    made: dict[int, list[Term]] = {}

    def terms_of(paired: PairedTerms) -> list[Term]:
        if id(paired) not in made:
            made[id(paired)] = paired.proposed(propose, propose_heads)
        return made[id(paired)]

    result = []
    for stage in stages:
        terms: list[Term] = []
        for term in stage.terms:
            terms += terms_of(term) if isinstance(term, PairedTerms) else [term]
        head = stage.extra_head
        if head is not None and (where := head_input()) is not None:
            of_head = made.setdefault(id(head), [head.term(where)])
            terms = without_shared_classes(terms, of_head[0])
        result.append(
            replace(
                stage,
                terms=terms,
                extra_head=None,
                teacher_terms=list(stage.teacher_terms),
                freeze=list(stage.freeze),
                optimizer=copy.deepcopy(stage.optimizer),
                arguments=copy.deepcopy(stage.arguments),
                suggested=copy.deepcopy(stage.suggested),
                factors=dict(stage.factors),
                extension=copy.deepcopy(stage.extension),
            )
        )
    return result
