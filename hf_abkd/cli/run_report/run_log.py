"""What a finished run left: its log as curves, its stages, and how large its teacher was."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_abkd.cli.comparison import Outcome
from hf_abkd.cli.side_by_side import FoundRun
from hf_abkd.reports.evaluation import Evaluation, stored_evaluation
from hf_abkd.reports.figures.line_chart import Span
from hf_abkd.stages.term import may_name_term
from hf_abkd.training.life.finished import FINISHED_NAME
from hf_abkd.training.life.saved_state import read_finished

#: What stands in the log before the name of a layer.
AGREEMENT = "boundary_agreement/"
EVALUATED = "eval_"


@dataclass(frozen=True)
class Curve:
    """A number of the log over the steps.

    Attributes:
        steps: The steps at which it was logged.
        values: What it was; numbers alone.
    """

    steps: Sequence[int]
    values: Sequence[float]


@dataclass(frozen=True)
class RunLog:
    """A finished run.

    Attributes:
        folder: Its folder.
        outcome: What became of its student.
        spans: Its stages, where they are known.
        teacher_parameters: How many parameters its teacher has, where that is known.
        measured: What `hf-abkd evaluate --save` measured of its student, if it did.
    """

    folder: Path
    outcome: Outcome
    spans: Sequence[Span] = field(default_factory=list)
    teacher_parameters: int | None = None
    measured: Evaluation | None = None

    @property
    def model(self) -> str:
        """What its method is called."""
        return self.outcome.model

    @property
    def seed(self) -> int:
        """Its seed."""
        return self.outcome.seed

    @property
    def teacher_accuracy(self) -> float | None:
        """The accuracy of its teacher: what was measured last, or what the run found before it began."""
        teacher = None if self.measured is None else self.measured.of("teacher")
        if teacher is None or teacher.accuracy is None:
            return self.outcome.teacher_accuracy
        return teacher.accuracy.value

    @property
    def terms(self) -> list[str]:
        """The names of the terms of its loss, in the order of the log."""
        lines = [entry for entry in self.outcome.log if "loss" in entry]
        return [name for name in dict.fromkeys(name for entry in lines for name in entry) if may_name_term(name)]

    def curve(self, name: str) -> Curve:
        """Return a number of the log over the steps; what was infinite or no number is left out."""
        entries = [entry for entry in self.outcome.log if _is_number(entry.get(name)) and "step" in entry]
        return Curve([entry["step"] for entry in entries], [float(entry[name]) for entry in entries])

    def named(self, beginning: str) -> list[str]:
        """Return what stands behind a beginning in the names of the log, in its order."""
        names = dict.fromkeys(name for entry in self.outcome.log for name in entry)
        return [name.removeprefix(beginning) for name in names if name.startswith(beginning)]


def run_log(run: FoundRun) -> RunLog:
    """Return what a run left in its folder.

    Raises:
        ValueError: If the note of its end, or what was measured, is damaged.
    """
    measured = stored_evaluation(run.folder)
    path = run.folder / FINISHED_NAME
    if not path.is_file():
        return RunLog(run.folder, run.outcome, _logged_spans(run.outcome), run.outcome.teacher_parameters, measured)
    made = read_finished(path)["run"]
    spans = [Span(str(one.get("name")), one["start"], one["stop"]) for one in made["stages"]]
    # The teacher of a cache is not there to be counted; the cache knows it.
    teacher: Mapping[str, Any] = made.get("teacher") or {}
    size = run.outcome.teacher_parameters or teacher.get("parameters")
    return RunLog(run.folder, run.outcome, spans, size, measured)


def _logged_spans(outcome: Outcome) -> list[Span]:
    """Return the stages as the log tells them, where there is no note: they begin with their first line or before."""
    last: dict[int, int] = {}
    for entry in outcome.log:
        if "stage" in entry and "step" in entry:
            last[entry["stage"]] = entry["step"]
    starts = [0, *last.values()]
    return [Span(f"stage {stage}", start, stop) for (stage, stop), start in zip(last.items(), starts, strict=False)]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
