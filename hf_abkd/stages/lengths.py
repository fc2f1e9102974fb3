"""Lengths: how many steps or epochs of a run each of its stages takes, as training arguments of the stage."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

from hf_abkd.stages.arguments import DistillationArguments
from hf_abkd.stages.stage import STAGE_ARGUMENTS, Stage
from hf_abkd.stages.suited_arguments import SuitedArguments


def stage_arguments(
    args: DistillationArguments, stages: Sequence[Stage], suited: SuitedArguments | None = None
) -> list[DistillationArguments]:
    """Return the training arguments of every stage: the run's, with the stage's length and its own settings.

    Args:
        args: The arguments of the run.
        stages: Its stages.
        suited: Fills in what both leave open; None leaves it open.

    Raises:
        ValueError: If the lengths of the stages do not fit the length of the run.
    """
    result = []
    for stage, (kind, length) in zip(stages, _lengths(_Budget.of(args), stages), strict=True):
        of_stage = copy.copy(args)
        if kind == "steps":
            of_stage.max_steps = int(length)
        else:
            of_stage.max_steps, of_stage.num_train_epochs = -1, length
        for key, value in stage.arguments.items():
            setattr(of_stage, key, STAGE_ARGUMENTS[key](value))
        result.append(of_stage if suited is None else suited.filled(of_stage, stage))
    return result


@dataclass(frozen=True)
class _Budget:
    """How long the run is: a number of steps or of epochs, the other of the two, and the argument that says so."""

    amount: float
    unit: str
    other: str
    argument: str

    @classmethod
    def of(cls, args: DistillationArguments) -> _Budget:
        if args.max_steps > 0:
            return cls(args.max_steps, "steps", "epochs", "max_steps")
        return cls(args.num_train_epochs, "epochs", "steps", "num_train_epochs")


def _lengths(budget: _Budget, stages: Sequence[Stage]) -> list[tuple[str, float]]:
    """Return the unit and the length of every stage; steps are whole, and add up to those of the run."""
    given = [getattr(stage, budget.unit) if stage.share is None else stage.share * budget.amount for stage in stages]
    in_other_unit = [getattr(stage, budget.other) is not None for stage in stages]
    _check(budget, stages, given, in_other_unit)
    open_ended = sum(length is None for length, other in zip(given, in_other_unit, strict=True) if not other)
    spent = sum(length for length in given if length is not None)
    lengths: list[tuple[str, float]] = []
    begin, end = 0, 0.0
    for stage, length, other in zip(stages, given, in_other_unit, strict=True):
        if other:
            unit, amount = budget.other, float(getattr(stage, budget.other))
        else:
            unit, amount = budget.unit, (budget.amount - spent) / open_ended if length is None else float(length)
        if unit == "steps":
            # Whole steps that add up to the run's, whatever the shares, and leave one for each stage that is to come.
            stop = round(end + amount)
            if budget.unit == "steps":
                stop = min(stop, round(budget.amount) - (len(stages) - len(lengths) - 1))
            whole = stop - begin
            begin, end = stop, end + amount
            if whole < 1:
                raise ValueError(
                    f"a run of {budget.amount:g} steps leaves none for stage {stage.name!r}; "
                    f"{len(stages)} stages need at least one each"
                )
            amount = whole
        lengths.append((unit, amount))
    return lengths


def _check(
    budget: _Budget, stages: Sequence[Stage], given: Sequence[float | None], in_other_unit: Sequence[bool]
) -> None:
    """Refuse stages whose lengths do not fit that of the run."""
    amount, unit = budget.amount, budget.unit
    mixed = [stage.name for stage, other in zip(stages, in_other_unit, strict=True) if other]
    open_ended = sum(length is None for length, other in zip(given, in_other_unit, strict=True) if not other)
    if mixed and (unit == "steps" or open_ended):
        raise ValueError(
            f"the run's length is {amount:g} {unit} ({budget.argument}), but the stages {mixed} give theirs in "
            f"{budget.other}: what they leave for the run cannot be worked out. Give the stages {unit} or shares."
        )
    spent = sum(length for length in given if length is not None)
    if open_ended and spent >= amount:
        raise ValueError(
            f"the stages with a length take {spent:g} {unit} and the run has {amount:g}: nothing is left for the "
            f"{open_ended} without one. Raise {budget.argument} or shorten them."
        )
    if not open_ended and unit == "steps" and round(spent) != amount:
        raise ValueError(f"the stages take {spent:g} steps together, but max_steps is {int(budget.amount)}")
    shares = any(stage.share is not None for stage in stages)
    if shares and not open_ended and not mixed and not math.isclose(spent, amount, rel_tol=0.01):
        raise ValueError(
            f"the stages take {spent:g} {unit} of the run's {amount:g} together. Shares are of the whole run: let them "
            "add up to 1, or leave one stage without a length."
        )
