"""Whether the teacher knows the data."""

from __future__ import annotations

from collections.abc import Iterator

from datasets import IterableDataset

from hf_abkd.cli.doctor.findings import Finding
from hf_abkd.cli.doctor.subject import Subject
from hf_abkd.teachers.chance import is_near_chance
from hf_abkd.wording import counted


def check_teacher(subject: Subject) -> Iterator[Finding]:
    """Whether the teacher knows the data."""
    match, dataset = subject.teacher_classes(), subject.evaluation_set
    if match is None or subject.teacher is None:
        return
    if dataset is None:
        yield Finding("note", "teacher", "not measured: there are no evaluation images", "Give --validation_files.")
        return
    if not match.is_comparable or subject.sample.labels is None:
        yield Finding("note", "teacher", "its accuracy is not defined on this data")
        return
    scores = subject.trainer.evaluate_teacher(dataset)
    accuracy, chance = scores["teacher_accuracy"], scores["chance_accuracy"]
    images = "the first images" if isinstance(dataset, IterableDataset) else counted(len(dataset), "image")
    message = f"accuracy {accuracy:.1%} on {images} of the evaluation set, where the commonest class has {chance:.1%}"
    # Of two classes with 70 % no teacher could be 1.5 times as good as chance.
    if is_near_chance(accuracy, chance):
        remedy = (
            "Is it trained? Is its preprocessing the one it was trained with, and are its classes in the order of "
            "this data set? A teacher that guesses teaches nothing."
        )
        yield Finding("warning", "teacher", message, remedy)
    else:
        yield Finding("ok", "teacher", message)
