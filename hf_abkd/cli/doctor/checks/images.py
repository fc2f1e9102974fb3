"""What images each model gets."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from hf_abkd.cli.doctor.findings import Finding
from hf_abkd.cli.doctor.subject import Subject
from hf_abkd.data.shared_images import SharedImages
from hf_abkd.models.arguments import ModelArguments
from hf_abkd.models.expected_images import image_size_of, other_size
from hf_abkd.models.processors import own_processor
from hf_abkd.teachers.cache.finding import is_local_cache
from hf_abkd.wording import by


def check_images(subject: Subject) -> Iterator[Finding]:
    """What images each model gets."""
    images = subject.student_images(subject.sample)
    size = by(images.shape[2:])
    if subject.shared_images is None:
        yield from _of_one_processor(subject, images)
    else:
        yield _of_two_processors(subject, subject.shared_images, size)
    expected = image_size_of(subject.student.config)
    if expected is not None and tuple(images.shape[2:]) != expected[0]:
        message = f"the student's {expected[1]} is {by(expected[0])}, and it gets {size}"
        remedy = "That is possible, but the published config would say another size: set it to the one you train with."
        yield Finding("note", "images", message, remedy)
    if subject.flags is not None and _lacks_processor(subject.flags):
        message = "the teacher comes without an image processor, and gets the student's images"
        remedy = (
            "Make sure that it was trained on this size, mean and standard deviation, or name its own processor with "
            "--teacher_image_processor_name."
        )
        yield Finding("note", "images", message, remedy)


def _of_one_processor(subject: Subject, images: Tensor) -> Iterator[Finding]:
    """Describe images that are the same for both models."""
    if subject.teacher is not None and (other := other_size(subject.teacher, images)):
        yield Finding("warning", "images", other.rstrip("."))
    processor = subject.trainer.processing_class
    made_by = "no processor" if processor is None else type(processor).__name__
    message = f"{images.shape[1]} channels, {by(images.shape[2:])} pixels ({made_by}), the same for every model"
    yield Finding("ok", "images", message)


def _of_two_processors(subject: Subject, shared: SharedImages, student_size: str) -> Finding:
    """Describe one image that each model gets as its own processor would make it."""
    canvas_size = subject.sample.canvas_size
    enlarged = (shared.upsampling(canvas_size) or "").rstrip(".")
    message = (
        f"one view of {by(canvas_size)} pixels for both models, each in its own size and colours: student "
        f"{student_size}, teacher {by(shared.teacher_preprocessing.size)}"
    )
    if enlarged:
        return Finding("warning", "images", f"{message}; {enlarged}")
    return Finding("ok", "images", message)


def _lacks_processor(flags: ModelArguments) -> bool:
    """Whether the flags name a teacher with which no image processor is stored, and no processor for both models."""
    name = flags.teacher_name_or_path
    named = flags.image_processor_name or flags.teacher_image_processor_name
    if name is None or named is not None or is_local_cache(name):
        return False
    return own_processor(name, **flags.hub(flags.teacher_revision).for_models()) is None
