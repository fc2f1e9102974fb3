"""An evaluation as text: a table with a column for each model, what the differences are worth, layers and classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from hf_abkd.reports.calibration import BINS
from hf_abkd.reports.class_accuracy import weakest_classes
from hf_abkd.reports.evaluation import START, Against, Boundaries, Evaluation, ModelEvaluation
from hf_abkd.terminal import shown_table
from hf_abkd.wording import counted, public_name, scaled

# More columns do not fit into a terminal.
_COLUMNS = 4
# The names of runs are shorter.
_RUN_COLUMNS = 5
# So many of the classes on which the student is worst are shown.
_CLASSES = 5
# A difference that chance makes more often than this may be chance.
_CLEAR = 0.05
_NOTHING = "-"
# A third quartile so many times the first tells of other work on the machine.
_UNEVEN = 1.5


def evaluation_text(found: Evaluation) -> Iterator[str]:
    """Return what is told of an evaluation, part by part.

    Args:
        found: The evaluation.
    """
    yield f"{found.images}: {counted(found.count, 'image')} of {len(found.class_names)} classes"
    titles = _titles(found.models)
    for some in _parts(titles):
        yield ""
        yield shown_table(["", *titles[some]], _rows(found, found.models[some]))
    if found.teacher is not None:
        yield "(0.50x): half of the teacher's number"
    yield from _about_times(found)
    if len(found.models) > 1:
        yield ""
        yield from _in_short(found)
        yield from _differences(found, titles)
    if found.boundaries is not None:
        yield from _layers(found.boundaries)
    yield from _classes(found, titles)


def run_text(found: Evaluation) -> str:
    """Return what a run came to: a table of its student before and after, its teacher and other runs, and differences.

    Args:
        found: What was measured, as by `DistillationTrainer.measure`.
    """
    return "\n".join(_of_run(found))


def _of_run(found: Evaluation) -> Iterator[str]:
    if found.count:
        yield f"{found.images}: {counted(found.count, 'image')} of {len(found.class_names)} classes"
    models = run_order(found)
    titles = _run_titles(models)
    for some in _parts(titles, _RUN_COLUMNS):
        yield shown_table(["", *titles[some]], _rows(found, models[some], brief=True))
    yield from _about_times(found)
    yield from _in_short(found)
    yield from run_differences(found)


def _about_times(found: Evaluation) -> Iterator[str]:
    if found.machine is not None:
        yield f"timed on {found.machine}"
        if any(one.high > _UNEVEN * one.low for model in found.models for one in model.latencies):
            yield "the times are far apart, as on a machine that does other work: time again when it rests"


def run_differences(found: Evaluation) -> Iterator[str]:
    """Return the student of a run against each of the others, in a line.

    Args:
        found: What was measured.
    """
    models = run_order(found)
    called = {(model.role, model.name): title for model, title in zip(models, _run_titles(models), strict=True)}
    student = found.models[0]
    for one in found.against:
        unclear = ", which may be chance" if _may_be_chance(one) else ""
        told = f"{one.difference}; McNemar's test: {one.test}{unclear}"
        yield f"{called[student.role, student.name]} against {called[one.role, one.name]}: {told}"


def run_order(found: Evaluation) -> list[ModelEvaluation]:
    """Return the models in the order in which a run is told: the teacher, the student before and after, the others."""
    told = ("teacher", START, "student")
    return sorted(found.models, key=lambda model: told.index(model.role) if model.role in told else len(told))


def run_rows(found: Evaluation) -> tuple[list[str], list[list[str]]]:
    """Return the titles and the rows of the table of a run, in which models stand beside each other.

    Args:
        found: What was measured.
    """
    models = run_order(found)
    return ["", *_run_titles(models)], _rows(found, models, brief=True)


def _run_titles(models: Sequence[ModelEvaluation]) -> list[str]:
    """Return what the models of a run are called: all but the teacher by the name of their run."""
    beside = {"teacher": "teacher {}", START: "{} before the run"}
    names = [public_name(model.name) for model in models]
    return [
        name if name == model.role else beside.get(model.role, "{}").format(name)
        for name, model in zip(names, models, strict=True)
    ]


def _may_be_chance(one: Against) -> bool:
    return bool(one.difference.value) and one.test.p_value >= _CLEAR


def _titles(models: Sequence[ModelEvaluation]) -> list[str]:
    """Return what models are called above columns: by the last part of a path, where that is enough."""
    short = [f"{model.role} {public_name(model.name)}" for model in models]
    times = Counter(short)
    return [
        title if times[title] == 1 else f"{model.role} {model.name}" for title, model in zip(short, models, strict=True)
    ]


def _rows(found: Evaluation, models: Sequence[ModelEvaluation], *, brief: bool = False) -> list[list[str]]:
    """Return the rows of the table for some of the models; without those that say nothing of any model."""
    columns = [dict(_cells(model, found.teacher)) for model in models]
    # The student has all rows that there are, in their order.
    names = list(dict(_cells(found.models[0], found.teacher)))
    if brief:
        columns = [
            {name: cell for name, cell in column.items() if _is_brief(name, model)}
            for column, model in zip(columns, models, strict=True)
        ]
    names = list(dict.fromkeys([*names, *(name for column in columns for name in column)]))
    rows = [[name, *(column.get(name, "") for column in columns)] for name in names]
    return [row for row in rows if any(row[1:]) and not (brief and set(row[1:]) <= {"", _NOTHING})]


def _is_brief(name: str, model: ModelEvaluation) -> bool:
    """Whether a row belongs into the table of a run; costs of the student as it began are those that it has."""
    if model.role == START and name.startswith(("parameters", "multiply-adds", "weights", "latency")):
        return False
    return not name.startswith(("  quartiles", "  images/s"))


def _cells(model: ModelEvaluation, teacher: ModelEvaluation | None) -> Iterator[tuple[str, str]]:
    """Return what is told of a model, in the order of the rows, with the ratio to the teacher where there is one."""
    ratios = {} if teacher is None or model is teacher else model.ratios_to(teacher)

    def of_teacher(text: str, name: str) -> str:
        return f"{text} ({ratios[name]:.2f}x)" if name in ratios else text

    accuracy = model.accuracy
    yield "accuracy", _NOTHING if accuracy is None else of_teacher(_percent(accuracy.value), "accuracy")
    yield "  95 % interval", "" if accuracy is None else f"{100 * accuracy.low:.1f} to {100 * accuracy.high:.1f}"
    for name, one in model.corrupted.items():
        label = f"  on images with {name.replace('_', ' ')}"
        yield label, _NOTHING if one is None else of_teacher(_percent(one.value), f"accuracy, {name}")
    error = model.calibration_error
    yield f"calibration error (ECE, {BINS} bins)", _NOTHING if error is None else _percent(error)
    agreed = model.agreement
    if agreed is not None:
        yield "same class as the teacher", _percent(agreed.top_1.value)
        yield "teacher's class among 5", "" if agreed.top_5 is None else _percent(agreed.top_5)
        yield "divergence from the teacher", "" if agreed.divergence is None else f"{agreed.divergence:.3f} nats"
    yield "parameters", of_teacher(f"{model.parameters:,}", "parameters")
    adds = model.multiply_adds
    yield "multiply-adds of an image", _NOTHING if adds is None else of_teacher(scaled(adds).strip(), "multiply_adds")
    size = model.weight_bytes
    yield "weights on the disk", _NOTHING if size is None else of_teacher(f"{scaled(size)}B", "weight_bytes")
    for timed in model.latencies:
        size_of = f"batch of {timed.batch_size}"
        yield f"latency, {size_of}", of_teacher(f"{timed.milliseconds:.3g} ms", f"latency_{timed.batch_size}")
        yield f"  quartiles, {size_of}", f"{timed.low:.3g} to {timed.high:.3g} ms"
        yield f"  images/s, {size_of}", f"{timed.images_per_second:,.0f}"


def _in_short(found: Evaluation) -> Iterator[str]:
    """Return what the student keeps of its teacher, and at what cost, in a sentence."""
    if found.teacher is None:
        return
    student = found.models[0]
    ratios = student.ratios_to(found.teacher)
    costs = {"parameters": "of the parameters", "multiply_adds": "of the multiply-adds"}
    costs |= {f"latency_{one.batch_size}": f"of the time (batch of {one.batch_size})" for one in student.latencies[:1]}
    told = [f"{ratios[name]:.2f} {noun}" for name, noun in costs.items() if name in ratios]
    if "accuracy" in ratios and told:
        yield f"the student has {ratios['accuracy']:.2f} of its teacher's accuracy at {', '.join(told)}"


def _differences(found: Evaluation, titles: Sequence[str]) -> Iterator[str]:
    """Return what the student is worth against each of the others."""
    compared = {(one.role, one.name) for one in found.against}
    for model, title in zip(found.models[1:], titles[1:], strict=True):
        if (model.role, model.name) not in compared:
            yield f"the {title} knows other classes than the student: there is nothing to compare"
    called = {(model.role, model.name): title for model, title in zip(found.models, titles, strict=True)}
    for one in found.against:
        unclear = ", which may be chance" if _may_be_chance(one) else ""
        yield f"student against {called[one.role, one.name]}: {one.difference}{unclear}"
        yield f"  McNemar's test: {one.test}"
        if len(found.class_names) > 2 and one.changes:
            classes = (f"{found.class_names[change.label]} {change.difference.value:+.1f}" for change in one.changes)
            yield f"  classes that differ most: {', '.join(classes)} points"


def _layers(boundaries: Boundaries) -> Iterator[str]:
    """Return how far student and teacher agree, layer by layer."""
    yield ""
    if boundaries.why_not:
        yield f"no boundaries are compared: {boundaries.why_not}"
        return
    rows = [
        [pair.student, pair.teacher, pair.why_not if pair.agreement is None else _percent(pair.agreement)]
        for pair in boundaries.pairs
    ]
    yield shown_table(["student's layer", "teacher's layer", "units on the same side of their boundary"], rows)
    if any(pair.agreement is None for pair in boundaries.pairs):
        yield "A connector is trained with the student and is no part of it: without it units have no partner."
    yield f"over {counted(boundaries.images, 'image')}"


def _classes(found: Evaluation, titles: Sequence[str]) -> Iterator[str]:
    """Return the classes on which the student is worst, and how good the others are on them."""
    accuracies = found.models[0].class_accuracy
    if accuracies is None or len(found.class_names) <= 2:
        return
    weakest = weakest_classes(accuracies, most=_CLASSES)
    for some in _parts(titles):
        rows = [
            [found.class_names[label], f"{found.class_counts[label]:,}"]
            + [
                _NOTHING if (known := model.class_accuracy) is None else _percent(known[label])
                for model in found.models[some]
            ]
            for label in weakest
        ]
        yield ""
        yield shown_table(["the student's weakest classes", "images", *titles[some]], rows)


def _parts(titles: Sequence[str], most: int = _COLUMNS) -> Iterator[slice]:
    """Return which models share a table."""
    yield from (slice(first, first + most) for first in range(0, len(titles), most))


def _percent(value: float | None) -> str:
    return _NOTHING if value is None else f"{100 * value:.2f} %"
