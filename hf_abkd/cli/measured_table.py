"""What several runs came to beside their accuracy, over seeds: agreement, calibration, size and time, as a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from hf_abkd.cli.comparison import percent
from hf_abkd.reports.evaluation import Evaluation, ModelEvaluation
from hf_abkd.wording import scaled

_TEACHER = "teacher"


def measured_table(runs: Sequence[tuple[str, Evaluation]]) -> tuple[list[str], list[list[str]]]:
    """Return the titles and the rows of a table: a row for each model, and the teacher first; no rows if none is known.

    Shares are means over the runs of a model, with their standard deviation. Times are the medians of each run,
    averaged, and their ratio to the teacher's is the mean of the ratios in each run, where both took turns.

    Args:
        runs: What was measured of each run, with the name of its model.
    """
    teachers = [teacher for _, found in runs if (teacher := found.of(_TEACHER)) is not None]
    sizes = sorted({one.batch_size for _, found in runs for model in found.models for one in model.latencies})
    columns: dict[str, Callable[[Sequence[_Beside]], str]] = {
        "same class as the teacher": lambda same: _shares([one.agreement for one in same]),
        "calibration error": lambda same: _shares([one.model.calibration_error for one in same]),
        "multiply-adds": lambda same: _cost([one.model.multiply_adds for one in same], _multiply_adds(teachers)),
        "weights": lambda same: _cost([one.model.weight_bytes for one in same], _weight_bytes(teachers), "B"),
    }
    for size in sizes:
        columns[f"latency, batch of {size}"] = lambda same, size=size: _time(same, size)  # type: ignore[misc]
    by_model: dict[str, list[_Beside]] = {}
    if teachers:
        by_model[_TEACHER] = [_Beside(teacher, None) for teacher in teachers]
    for name, found in runs:
        if (student := found.of("student")) is not None:
            by_model.setdefault(name, []).append(_Beside(student, found.of(_TEACHER)))
    rows = [[name, *(cell(same) for cell in columns.values())] for name, same in by_model.items()]
    told = [place for place in range(1, len(columns) + 1) if any(row[place] for row in rows)]
    return (
        ["model", *(list(columns)[place - 1] for place in told)],
        [[row[0], *(row[place] for place in told)] for row in rows],
    )


class _Beside:
    """A model of a run beside the teacher of that run."""

    def __init__(self, model: ModelEvaluation, teacher: ModelEvaluation | None) -> None:
        self.model, self.teacher = model, teacher

    @property
    def agreement(self) -> float | None:
        """The share of images on which it says what its teacher says."""
        return None if self.model.agreement is None else self.model.agreement.top_1.value

    def times(self, size: int) -> tuple[float | None, float | None]:
        """Return its milliseconds for a batch, and the ratio to the teacher's."""
        ours = self.model.milliseconds(size)
        theirs = None if self.teacher is None else self.teacher.milliseconds(size)
        return ours, ours / theirs if ours and theirs else None


def _multiply_adds(models: Sequence[ModelEvaluation]) -> int | None:
    return _common([model.multiply_adds for model in models])


def _weight_bytes(models: Sequence[ModelEvaluation]) -> int | None:
    return _common([model.weight_bytes for model in models])


def _common(numbers: Sequence[int | None]) -> int | None:
    """Return the number that all models have that were counted; None if there are several."""
    known = {number for number in numbers if number is not None}
    return known.pop() if len(known) == 1 else None


def _shares(shares: Sequence[float | None]) -> str:
    known = [share for share in shares if share is not None]
    # One model that several runs measured is no spread.
    return percent(known if len(set(known)) > 1 else known[:1]) if known else ""


def _cost(numbers: Sequence[int | None], teacher: int | None, unit: str = "") -> str:
    number = _common(numbers)
    if number is None:
        return ""
    text = f"{scaled(number)}{unit}".strip()
    return text if not teacher or number == teacher else f"{text} ({number / teacher:.2f}x)"


def _time(same: Sequence[_Beside], size: int) -> str:
    times, ratios = zip(*(one.times(size) for one in same), strict=True)
    known = [time for time in times if time is not None]
    if not known:
        return ""
    of_teacher = [ratio for ratio in ratios if ratio is not None]
    return f"{fmean(known):.3g} ms" + (f" ({fmean(of_teacher):.2f}x)" if of_teacher else "")
