"""RunStage: what a run makes of a stage: the user's stage, and the run's own terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hf_abkd.objectives import Objective
from hf_abkd.stages.arguments import DistillationArguments
from hf_abkd.stages.stage import Stage
from hf_abkd.stages.term import Term
from hf_abkd.training.terms.run_term import RunTerm


@dataclass(frozen=True, eq=False)
class RunStage:
    """A stage of a run.

    Args:
        stage: What the user wrote, with a term for every pair of layers.
        terms: The run's terms of the student.
        teacher_terms: Those that train the teacher.
    """

    stage: Stage
    terms: tuple[RunTerm, ...]
    teacher_terms: tuple[RunTerm, ...] = ()

    @property
    def name(self) -> str:
        """What it is called in logs, the progress bar and the model card."""
        return self.stage.name

    def begin(self) -> None:
        """Give each term the factor that it has while this stage runs."""
        for term in self.all_terms():
            term.factor = self.stage.factor_of(term.name)

    def all_terms(self) -> list[RunTerm]:
        """Return the terms of the student, and behind them those of the teacher."""
        return [*self.terms, *self.teacher_terms]

    def describe(self) -> dict[str, Any]:
        """Return what defines this stage, for checkpoints, logs and cards."""
        described = {**self.stage.describe(), "terms": [term.describe() for term in self.terms]}
        if self.teacher_terms:
            described["teacher_terms"] = [term.describe() for term in self.teacher_terms]
        return described


def run_stages(stages: Sequence[Stage], arguments: DistillationArguments) -> list[RunStage]:
    """Return what a run makes of its stages: terms of its own, so that two trainers never share a weight.

    A `Term` that stands in two stages is one run term in both, whose connector goes on where it was. Settings of
    objectives that follow a training argument get its value.

    Args:
        stages: The stages, with their layers paired.
        arguments: The training arguments of the run.
    """
    copied: dict[int, Any] = {}
    made: dict[int, RunTerm] = {}

    def run_terms(terms: Sequence[Term]) -> tuple[RunTerm, ...]:
        for term in terms:
            if id(term) not in made:
                made[id(term)] = RunTerm(term, copied)
                _follow(made[id(term)].objective, arguments)
        return tuple(made[id(term)] for term in terms)

    return [RunStage(stage, run_terms(stage.each_term()), run_terms(stage.teacher_terms)) for stage in stages]


def each_once(stages: Sequence[RunStage]) -> list[RunTerm]:
    """Return the student's terms of all stages, each once."""
    return list({id(term): term for stage in stages for term in stage.terms}.values())


def named_terms(stages: Sequence[RunStage]) -> dict[str, RunTerm]:
    """Return all terms, by the names under which checkpoints hold their connectors: that of the first place."""
    named: dict[int, tuple[str, RunTerm]] = {}
    for index, stage in enumerate(stages):
        for position, term in enumerate(stage.all_terms()):
            named.setdefault(id(term), (f"{index}.{position}", term))
    return dict(named.values())


def _follow(objective: Objective, arguments: DistillationArguments) -> None:
    """Give an objective the training arguments that its settings follow."""
    for setting, argument in objective.follows.items():
        if getattr(objective, setting) is None:
            setattr(objective, setting, getattr(arguments, argument))
