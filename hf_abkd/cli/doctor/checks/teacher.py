"""Whether the teacher knows the data."""

from __future__ import annotations

from collections.abc import Iterator

from datasets import IterableDataset

from hf_abkd.cli.doctor.findings import Finding
from hf_abkd.cli.doctor.subject import Subject
from hf_abkd.models.same_weights import SAME_WEIGHTS, same_weights
from hf_abkd.teachers.chance import interval, near_chance
from hf_abkd.wording import counted

# On how many images the teacher is measured, until they tell whether it is better than guessing.
_IMAGES = (64, 256, 1024)


def check_teacher(subject: Subject) -> Iterator[Finding]:
    """Whether the teacher is another model than the student, and knows the data."""
    match = subject.teacher_classes()
    if match is None or subject.teacher is None:
        return
    if same_weights(subject.student, subject.teacher):
        yield Finding("error", "teacher", SAME_WEIGHTS)
    if subject.evaluation_rows(1) is None:
        yield Finding("note", "teacher", "not measured: there are no evaluation images", "Give --validation_files.")
    elif not match.is_comparable or subject.sample.labels is None:
        yield Finding("note", "teacher", "its accuracy is not defined on this data")
    else:
        yield _measured(subject)


def _measured(subject: Subject) -> Finding:
    """Measure the teacher on as many images as it takes, and judge it."""
    for count in _IMAGES:
        rows = subject.evaluation_rows(count)
        scores = subject.trainer.evaluate_teacher(rows)
        accuracy, chance = scores["teacher_accuracy"], scores["chance_accuracy"]
        streamed = isinstance(rows, IterableDataset)
        images = count if streamed else len(rows)
        low, high = interval(accuracy, images)
        # Of two classes with 70 % no teacher could be 1.5 times as good as chance.
        bound = near_chance(chance)
        if low >= bound or high < bound or images < count:
            break
    where = f"the first {images:,} images" if streamed else counted(images, "image")
    message = f"accuracy {accuracy:.1%} on {where} of the evaluation set, where the commonest class has {chance:.1%}"
    if low >= bound:
        return Finding("ok", "teacher", message)
    if high >= bound:
        remedy = f"It lies between {low:.1%} and {high:.1%}: more evaluation images would tell."
        return Finding("note", "teacher", f"{message}: too few images to tell it from guessing", remedy)
    remedy = (
        "Is it trained? Is its preprocessing the one it was trained with, and are its classes in the order of "
        "this data set? A teacher that guesses teaches nothing."
    )
    return Finding("error" if subject.learns_from_logits() else "warning", "teacher", message, remedy)
