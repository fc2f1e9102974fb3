"""Workload: what a command line names, loaded: teacher, student, images and their processor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from datasets import Dataset, IterableDataset
from transformers import BaseImageProcessor, PreTrainedModel

from hf_abkd.data import DataArguments, ImageDatasets, load_image_datasets
from hf_abkd.images import ImageTransform, prepare
from hf_abkd.models import ModelArguments, check_same_preprocessing, load_processor, load_student, load_teacher


@dataclass(frozen=True)
class Workload:
    """Everything a run needs besides its training arguments and stages.

    Args:
        teacher: The teacher, or None.
        make_student: Makes the student afresh, so that several runs start alike; random weights follow the seed.
        processor: The image processor that is saved with the student.
        train: The prepared training set.
        validation: The prepared evaluation set, or None.
        name: The name of the data, for logs and model cards.
        dataset_id: The data set on the Hub, if it is there.
    """

    teacher: PreTrainedModel | None
    make_student: Callable[[], PreTrainedModel]
    processor: BaseImageProcessor
    train: Dataset | IterableDataset
    validation: Dataset | IterableDataset | None
    name: str
    dataset_id: str | None = None


def prepared(
    teacher: PreTrainedModel | None,
    make_student: Callable[[], PreTrainedModel],
    processor: BaseImageProcessor,
    images: ImageDatasets,
    *,
    num_channels: int = 3,
    image_column: str = "image",
    label_column: str = "label",
) -> Workload:
    """Return a workload of models and images, with the images prepared by the processor."""
    transform = ImageTransform(
        processor, image_column=image_column, label_column=label_column, num_channels=num_channels
    )
    return Workload(
        teacher=teacher,
        make_student=make_student,
        processor=processor,
        train=prepare(images.train, transform),
        validation=None if images.validation is None else prepare(images.validation, transform),
        name=images.name,
    )


def from_flags(models: ModelArguments, data: DataArguments, *, seed: int) -> Workload:
    """Load the models and the images that the flags name.

    Raises:
        ValueError: If a flag is missing, or models or data are not usable; see `hf_abkd.models` and `hf_abkd.data`.
        FileNotFoundError: If a file or folder does not exist.
    """
    student_name = models.student_name_or_path
    if student_name is None:
        raise ValueError(
            "--student_name_or_path is missing: a model on the Hub, a local folder, or a config for random weights"
        )
    hub: dict[str, Any] = {
        "trust_remote_code": models.trust_remote_code,
        "cache_dir": models.cache_dir,
        "token": models.token,
    }
    images = load_image_datasets(data, seed=seed, cache_dir=models.cache_dir, token=models.token)

    def make_student() -> PreTrainedModel:
        return load_student(
            student_name,
            labels=images.labels,
            revision=models.student_revision,
            ignore_mismatched_sizes=models.ignore_mismatched_sizes,
            **hub,
        )

    teacher = None
    if models.teacher_name_or_path is not None:
        teacher = load_teacher(
            models.teacher_name_or_path, labels=images.labels, revision=models.teacher_revision, **hub
        )
    processor = load_processor(
        models.image_processor_name or student_name,
        fallback=models.teacher_name_or_path,
        revision="main" if models.image_processor_name else models.student_revision,
        fallback_revision=models.teacher_revision,
        **hub,
    )
    if models.teacher_name_or_path is not None and models.image_processor_name is None:
        check_same_preprocessing(processor, models.teacher_name_or_path, revision=models.teacher_revision, **hub)
    work = prepared(
        teacher,
        make_student,
        processor,
        images,
        num_channels=getattr(make_student().config, "num_channels", 3),
        image_column=data.image_column_name,
        label_column=data.label_column_name,
    )
    return replace(work, dataset_id=data.dataset_name)
