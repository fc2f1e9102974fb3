"""The part of a report on classes: by how much each is said better or worse than by the teacher and the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from hf_abkd.cli.answers import Answers
from hf_abkd.cli.run_report.asked import Asked
from hf_abkd.cli.run_report.run_log import RunLog
from hf_abkd.reports.class_accuracy import class_accuracy
from hf_abkd.reports.figures.bars import bars
from hf_abkd.reports.page.parts import Part, Picture, Section

_TITLE = "Accuracy by class"
_MOST = 20

ByClass = Sequence[float | None]


@dataclass(frozen=True)
class ClassAccuracies:
    """Accuracies class by class, shares in [0, 1]; None for a class without images.

    Attributes:
        names: What the classes are called.
        students: Of each model, by seed.
        teacher: Of the teacher; None if it is not known.
    """

    names: Sequence[str]
    students: Mapping[str, Mapping[int, ByClass]]
    teacher: ByClass | None = None


def asked_classes(asked: Asked) -> ClassAccuracies:
    """Return the accuracies class by class of models that were asked."""
    students: dict[str, dict[int, ByClass]] = {}
    for one in asked.runs:
        if one.answers is not None:
            students.setdefault(one.run.model, {})[one.run.seed] = _by_class(one.answers)
    teacher = None if asked.teacher_answers is None else _by_class(asked.teacher_answers)
    return ClassAccuracies(list(asked.class_names.values()), students, teacher)


def measured_classes(runs: Sequence[RunLog]) -> ClassAccuracies | None:
    """Return the accuracies that `hf-abkd evaluate --save` left; None if there are none of the same classes."""
    found = [(run, run.measured) for run in runs if run.measured is not None and run.measured.class_names]
    if not found or len({tuple(measured.class_names) for _, measured in found}) > 1:
        return None
    students: dict[str, dict[int, ByClass]] = {}
    teacher = None
    for run, measured in found:
        student, taught = measured.of("student"), measured.of("teacher")
        if student is not None and student.class_accuracy is not None:
            students.setdefault(run.model, {})[run.seed] = student.class_accuracy
        if taught is not None and taught.class_accuracy is not None:
            teacher = taught.class_accuracy
    return ClassAccuracies(found[0][1].class_names, students, teacher) if students else None


def class_section(found: ClassAccuracies, against: str) -> Section:
    """Return by how much the accuracy of each class differs from the teacher's and the baseline's.

    Args:
        found: The accuracies.
        against: The model that the others are compared with.
    """
    drawn = [_picture(found, model, against, number) for number, model in enumerate(found.students)]
    pictures = [picture for picture in drawn if picture is not None]
    parts: list[Part] = [pictures] if pictures else []
    if found.teacher is None:
        parts.append("There is no comparison with a teacher: --teacher names one.")
    if len(found.students) == 1:
        parts.append("There is no other model to compare with: name runs of one, such as the student alone, too.")
    return Section(_TITLE, parts)


def _picture(found: ClassAccuracies, model: str, against: str, number: int) -> Picture | None:
    """Return the picture of a model; None if there is nothing to compare it with."""
    compared: dict[str, list[tuple[ByClass, ByClass]]] = {}
    seeds = found.students[model]
    if found.teacher is not None:
        compared["against the teacher"] = [(ours, found.teacher) for ours in seeds.values()]
    if model != against and (both := [seed for seed in seeds if seed in found.students.get(against, {})]):
        compared[f"against {against}"] = [(seeds[seed], found.students[against][seed]) for seed in both]
    changes = {label: _changes(pairs, len(found.names)) for label, pairs in compared.items()}
    known = [place for place in range(len(found.names)) if all(numbers[place] for numbers in changes.values())]
    if not changes or not known:
        return None
    first = next(iter(changes.values()))
    chosen = sorted(known, key=lambda place: -abs(fmean(first[place])))[:_MOST]
    chosen.sort(key=lambda place: fmean(first[place]))
    values = {label: [numbers[place] for place in chosen] for label, numbers in changes.items()}
    names = [found.names[place] for place in chosen]
    quantity = "change in accuracy (points)"
    caption = (
        "To the left the student is worse on the class, to the right better; classes are in the order of the first "
        "comparison. Bars are means over seeds, and a line stands for each of several seeds."
    )
    if len(chosen) < len(known):
        caption += f" Only the {len(chosen)} classes that changed most are shown, of {len(known)}."
    label, numbers = next(iter(values.items()))
    worst = "; ".join(f"{name} {fmean(seeds):+.1f}" for name, seeds in zip(names[:3], numbers, strict=False))
    alt = f"Bars of the {quantity} of each class. The lowest {label}: {worst}."
    return Picture(f"classes-{number}", model, bars(names, values, quantity, signed=True), alt, caption)


def _changes(pairs: Sequence[tuple[ByClass, ByClass]], classes: int) -> list[list[float]]:
    """Return the change of each class in points, of each seed; none where a class has no images."""
    changes: list[list[float]] = []
    for place in range(classes):
        both = [(ours[place], theirs[place]) for ours, theirs in pairs]
        changes.append([100 * (one - other) for one, other in both if one is not None and other is not None])
    return changes


def _by_class(answers: Answers) -> list[float | None]:
    known = answers.truth >= 0
    return class_accuracy(answers.truth[known], answers.right[known], answers.logits.shape[1])
