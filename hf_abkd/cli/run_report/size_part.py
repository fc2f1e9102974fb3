"""The part of a report on what accuracy costs: parameters, and where they were measured multiply-adds and time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import median

from hf_abkd.cli.run_report.run_log import RunLog
from hf_abkd.reports.evaluation import ModelEvaluation
from hf_abkd.reports.figures.trade_off import Candidate, pareto_front, trade_off
from hf_abkd.reports.file_names import EVALUATION_NAME
from hf_abkd.reports.page.parts import Part, Picture, Section
from hf_abkd.wording import listed

_MILLION = 1e6
_TEACHER = "teacher"
_CAPTION = (
    "Each mark is a run. The line is the Pareto front: nothing is both better and cheaper than what lies on it. Top "
    "left is best."
)


def size_section(runs: Sequence[RunLog]) -> Section:
    """Return the accuracies against parameters, multiply-adds and latency.

    Args:
        runs: The runs.
    """
    kinds = [("parameters", "parameters (millions)", "Parameters", _by_parameters(runs))]
    if measured := [run for run in runs if run.measured is not None]:
        kinds.append(
            ("multiply-adds", "multiply-adds for an image (millions)", "Multiply-adds", _by(measured, _multiply_adds))
        )
        if size := _batch_size(measured):
            words = "an image" if size == 1 else f"a batch of {size} images"
            found = _by(measured, lambda model: model.milliseconds(size))
            kinds.append(("latency", f"milliseconds for {words}", "Latency", found))
    pictures, sentences = [], []
    for name, cost, title, candidates in kinds:
        if len({one.cost for one in candidates}) > 1:
            pictures.append(_picture(name, cost, title, candidates))
        elif candidates:
            sentences.append(
                f"{title}: all models have the same, so there is nothing to weigh against accuracy. Runs with other "
                "students beside these make the picture."
            )
    parts: list[Part] = [pictures] if pictures else []
    parts += sentences
    parts += _absent(runs)
    return Section("Accuracy against cost", parts)


def _by_parameters(runs: Sequence[RunLog]) -> list[Candidate]:
    """Return each run that was evaluated by its parameters, and teachers whose size and accuracy are known."""
    students = [
        Candidate(run.model, run.outcome.parameters / _MILLION, 100 * run.outcome.accuracy)
        for run in runs
        if run.outcome.accuracy is not None
    ]
    teachers = {
        (run.teacher_parameters / _MILLION, 100 * accuracy)
        for run in runs
        if run.teacher_parameters and (accuracy := run.teacher_accuracy) is not None
    }
    return [*students, *(Candidate(_TEACHER, *one) for one in sorted(teachers))]


def _by(runs: Sequence[RunLog], cost_of: Callable[[ModelEvaluation], float | None]) -> list[Candidate]:
    """Return students and teachers by a cost that was measured, with the accuracy of the same measurement."""
    students: list[Candidate] = []
    teachers: dict[float, list[float]] = {}
    for run in runs:
        for role in ("student", _TEACHER):
            model = None if run.measured is None else run.measured.of(role)
            cost = None if model is None else cost_of(model)
            if model is None or cost is None or model.accuracy is None:
                continue
            accuracy = 100 * model.accuracy.value
            if role == _TEACHER:
                teachers.setdefault(accuracy, []).append(cost)
            else:
                students.append(Candidate(run.model, cost, accuracy))
    # One teacher that every run timed is one mark.
    found = [Candidate(_TEACHER, median(costs), accuracy) for accuracy, costs in teachers.items()]
    return list(dict.fromkeys([*students, *found]))


def _multiply_adds(model: ModelEvaluation) -> float | None:
    return None if model.multiply_adds is None else model.multiply_adds / _MILLION


def _batch_size(runs: Sequence[RunLog]) -> int | None:
    """Return the smallest batch that was timed; None if nothing was."""
    sizes = [
        one.batch_size
        for run in runs
        for model in (run.measured.models if run.measured else ())
        for one in model.latencies
    ]
    return min(sizes, default=None)


def _picture(name: str, cost: str, title: str, candidates: Sequence[Candidate]) -> Picture:
    front = listed([f"{one.label} ({one.cost:.3g}, {one.accuracy:.2f} %)" for one in pareto_front(candidates)], 10)
    alt = f"Marks of accuracy in per cent over {cost}. On the Pareto front: {front}."
    return Picture(name, title, trade_off(candidates, cost), alt, _CAPTION)


def _absent(runs: Sequence[RunLog]) -> Iterator[str]:
    """Say what is not known."""
    without = [f"{run.model} with seed {run.seed}" for run in runs if run.measured is None]
    if without:
        whose = "" if len(without) == len(runs) else f" of {'; '.join(without)}"
        yield (
            f"Multiply-adds and latency are not known{whose}: `hf-abkd evaluate STUDENT --save` measures them and "
            f"writes {EVALUATION_NAME} into the folder of a student."
        )
    if all(run.teacher_accuracy is None for run in runs):
        yield "No teacher is shown: no run measured its accuracy."
