"""Workload: what a command line names, loaded: teacher, student, images and their processor."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from datasets import Dataset, IterableDataset
from huggingface_hub.errors import LocalEntryNotFoundError
from torch import nn
from transformers import BaseImageProcessor, PreTrainedModel

from hf_abkd.cli.named_student import NamedStudent, named_student
from hf_abkd.cli.output import write_line
from hf_abkd.data.arguments import DataArguments
from hf_abkd.data.loading import ImageDatasets, load_image_datasets
from hf_abkd.data.pixel_cache.cached_images import with_cached_pixels
from hf_abkd.data.preprocessing import same_preprocessing
from hf_abkd.data.transform import ImageTransform, prepare
from hf_abkd.models.arguments import ModelArguments
from hf_abkd.models.expected_images import channels_of, check_same_channels
from hf_abkd.models.processors import load_processor, own_processor
from hf_abkd.models.teacher import load_teacher
from hf_abkd.models.teacher_weights import TeacherWeights
from hf_abkd.teachers.cache.finding import is_hub_cache, is_local_cache
from hf_abkd.teachers.cache.teacher_cache import TeacherCache
from hf_abkd.teachers.mean_source import MeanTeacher
from hf_abkd.wording import counted


@dataclass(frozen=True)
class Workload:
    """Everything a run needs besides its training arguments and stages.

    Args:
        teacher: The teacher, what it said of the training set, the mean of the student that is one, or None.
        make_student: Makes the student afresh, so that several runs start alike; random weights follow the seed.
        processor: The image processor that is saved with the student.
        train: The prepared training set.
        validation: The prepared evaluation set, or None.
        name: The name of the data, for logs and model cards.
        dataset_id: The data set on the Hub, if it is there.
        teacher_processor: The teacher's image processor, if it prepares images otherwise than the student's.
        unlabelled: How many of the training images, the last ones, have no label.
        student_start: What the student counts as where settings are chosen for it, unless the training arguments say.
        evaluated_name: What the images that a run is measured on are of, if it is other data than it trains on.
    """

    teacher: nn.Module | TeacherCache | MeanTeacher | None
    make_student: Callable[[], PreTrainedModel]
    processor: BaseImageProcessor
    train: Dataset | IterableDataset
    validation: Dataset | IterableDataset | None
    name: str
    dataset_id: str | None = None
    teacher_processor: BaseImageProcessor | None = None
    unlabelled: int = 0
    student_start: str = "auto"
    evaluated_name: str | None = None


def prepared(
    teacher: nn.Module | TeacherCache | None,
    make_student: Callable[[], PreTrainedModel],
    processor: BaseImageProcessor,
    images: ImageDatasets,
    *,
    num_channels: int = 3,
    image_column: str = "image",
    label_column: str = "label",
    teacher_processor: BaseImageProcessor | None = None,
    pixel_cache: str | None = None,
    reduced_decoding: bool = False,
) -> Workload:
    """Return a workload of models and images, with the images prepared by the processor, or by both.

    A teacher's processor that does the same as the student's is left out. With a cached teacher the training images
    are prepared as those that it saw. With a pixel cache, or one that was kept with a cached teacher, they are read
    from there. Reduced decoding is for training images: a student is judged by what its published processor will see.
    """
    columns: dict[str, Any] = {"image_column": image_column, "label_column": label_column}
    if isinstance(teacher, TeacherCache):
        teacher.check_decoding(reduced_decoding)
        alone = ImageTransform(processor, num_channels=num_channels, **columns)
        train = prepare(images.train, teacher.transform(processor, **columns, unlabelled=images.unlabelled > 0))
        # The teacher has no part in evaluations.
        validation = None if images.validation is None else prepare(images.validation, alone)
        if pixel_cache is not None:
            train, validation = with_cached_pixels(pixel_cache, [train, validation])
        elif teacher.pixel_cache is not None:
            train = teacher.pixel_cache.attach(train)
        return Workload(
            teacher=teacher,
            make_student=make_student,
            processor=processor,
            train=train,
            validation=validation,
            name=images.name,
            unlabelled=images.unlabelled,
        )
    if teacher_processor is not None and same_preprocessing(processor, teacher_processor, num_channels):
        teacher_processor = None

    def transform(*, training: bool) -> ImageTransform:
        return ImageTransform(
            processor,
            **columns,
            num_channels=num_channels,
            teacher_processor=teacher_processor,
            # Images to evaluate on are not augmented, so that each model can have exactly what its processor makes.
            shared=training,
            unlabelled=training and images.unlabelled > 0,
            reduced_decoding=training and reduced_decoding,
        )

    train = prepare(images.train, transform(training=True))
    validation = None if images.validation is None else prepare(images.validation, transform(training=False))
    if pixel_cache is not None:
        train, validation = with_cached_pixels(pixel_cache, [train, validation])
    return Workload(
        teacher=teacher,
        make_student=make_student,
        processor=processor,
        train=train,
        validation=validation,
        name=images.name,
        teacher_processor=teacher_processor,
        unlabelled=images.unlabelled,
    )


def from_flags(models: ModelArguments, data: DataArguments, *, seed: int) -> Workload:
    """Load the models and the images that the flags name.

    Raises:
        ValueError: If a flag is missing, or models or data are not usable; see `hf_abkd.models` and
            `hf_abkd.data.loading`.
        FileNotFoundError: If a file or folder does not exist.
    """
    # Of its config alone: what is wrong with it is told before images and the teacher are loaded.
    student = named_student(models)
    images = load_image_datasets(data, seed=seed, cache_dir=models.cache_dir, token=models.token)
    tell_unlabelled(images)
    teacher = _load_teacher(models, images.labels)
    theirs = teacher.channels if isinstance(teacher, TeacherCache) else channels_of(getattr(teacher, "config", None))
    num_channels = student.num_channels or theirs or 3
    check_same_channels(num_channels, theirs)
    work = prepared(
        teacher,
        lambda: student.make(images.labels, teacher),
        _load_processor(models, student, teacher),
        images,
        num_channels=num_channels,
        image_column=data.image_column_name,
        label_column=data.label_column_name,
        teacher_processor=_load_teacher_processor(models, teacher),
        pixel_cache=data.pixel_cache,
        reduced_decoding=data.reduced_decoding,
    )
    return replace(work, dataset_id=data.dataset_name, student_start=student.start)


def tell_unlabelled(images: ImageDatasets) -> None:
    """Tell how many images to train on have labels, where some have none; one process speaks for all."""
    if images.unlabelled and os.environ.get("RANK", "0") == "0":
        labelled = counted(len(images.train) - images.unlabelled, "image")
        write_line(f"training set: {labelled} with labels and {images.unlabelled:,} without")


def _load_teacher(models: ModelArguments, labels: list[str]) -> nn.Module | TeacherCache | None:
    """Return a teacher, or what it said of a data set; None if the flags name none."""
    name, hub = models.teacher_name_or_path, models.hub(models.teacher_revision)
    if name is None:
        return None
    weights = models.teacher_weights
    if is_local_cache(name):
        _refuse_weights(name, weights)
        return TeacherCache.load(name)
    try:
        return load_teacher(name, labels=labels, **asdict(weights), **hub.for_models())
    except OSError as error:
        # Looked for only now: most teachers are models, and asking the Hub takes time, most if it does not answer.
        if not _is_out_of_reach(error) and is_hub_cache(name, **hub.for_files()):
            _refuse_weights(name, weights)
            return TeacherCache.load(name, **hub.for_files())
        raise


def _refuse_weights(name: str, weights: TeacherWeights) -> None:
    """Refuse to say of a cache how weights are held.

    Raises:
        ValueError: If that is said.
    """
    if not weights.as_usual:
        raise ValueError(
            f"the teacher {name!r} is a cache of its answers, without weights: leave --teacher_dtype, "
            "--teacher_device_map and --teacher_bits out"
        )


def _is_out_of_reach(error: BaseException) -> bool:
    """Whether the Hub did not answer, and nothing was downloaded before."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, LocalEntryNotFoundError):
        cause = cause.__cause__ or cause.__context__
    return cause is not None


def _load_processor(
    models: ModelArguments, student: NamedStudent, teacher: nn.Module | TeacherCache | None
) -> BaseImageProcessor:
    """Return the processor that the flags name, or else the student's or the teacher's."""
    if models.image_processor_name:
        # A processor that was asked for is not replaced by another one.
        return load_processor(models.image_processor_name, **models.hub().for_models())
    fallback, fallback_revision = models.teacher_name_or_path, models.teacher_revision
    if models.teacher_image_processor_name:
        fallback, fallback_revision = models.teacher_image_processor_name, "main"
    elif isinstance(teacher, TeacherCache):
        fallback, fallback_revision = str(teacher.table.folder), "main"
    return load_processor(
        student.processor_name,
        fallback=fallback,
        fallback_revision=fallback_revision,
        **student.hub.for_models(),
    )


def _load_teacher_processor(
    models: ModelArguments, teacher: nn.Module | TeacherCache | None
) -> BaseImageProcessor | None:
    """Return the processor that the flags name for the teacher, or else its own, unless they name one for both models.

    Raises:
        ValueError: If the flags name one and there is no teacher, or it was cached with one.
    """
    name, asked = models.teacher_name_or_path, models.teacher_image_processor_name
    if asked is not None:
        if name is None or isinstance(teacher, TeacherCache):
            why = "there is no teacher" if name is None else f"the cache {name!r} brings its own"
            raise ValueError(f"--teacher_image_processor_name {asked} is given, and {why}: leave it out")
        return load_processor(asked, flag="--teacher_image_processor_name", **models.hub().for_models())
    if name is None or models.image_processor_name or isinstance(teacher, TeacherCache):
        return None
    return own_processor(name, **models.hub(models.teacher_revision).for_models())
