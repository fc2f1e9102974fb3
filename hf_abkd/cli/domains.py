"""Two domains of images, prepared for models that learn on the one and adapt to the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from transformers import BaseImageProcessor, PreTrainedModel

from hf_abkd.data.arguments import DataArguments
from hf_abkd.data.digits import digits
from hf_abkd.data.loading import ImageDatasets, load_image_datasets
from hf_abkd.data.paired_domains import PairedDomains
from hf_abkd.data.transform import ImageTransform, prepare
from hf_abkd.reports.metrics import classification_metrics
from hf_abkd.stages.arguments import DistillationArguments
from hf_abkd.stages.stage import Stage
from hf_abkd.training.trainer import DistillationTrainer


@dataclass(frozen=True)
class Domains:
    """The images of both domains as models take them.

    Attributes:
        source: The training images of the source.
        both: Training images of both domains side by side; those of the target have no labels.
        validation: Labelled images of both, to report on: `target`, on which runs are measured, and `source`.
        processor: The image processor that prepares them.
        labels: The names of the classes.
    """

    source: Any
    both: PairedDomains
    validation: dict[str, Any]
    processor: BaseImageProcessor
    labels: list[str]


def named_domains(
    source: DataArguments, target_files: list[str] | None, target_validation_files: list[str] | None, *, seed: int
) -> tuple[ImageDatasets, ImageDatasets]:
    """Load the source that flags name, and the target: other files, or scikit-learn's digits.

    Args:
        source: The flags of the source; images without labels are refused.
        target_files: Training images of the target; None for the digits.
        target_validation_files: Images of the target to report on.
        seed: Seed of what is held out.
    """
    if source.names_unlabelled:
        raise ValueError(
            "the images without labels are those of the target domain here: name them with --target_files, and leave "
            "out --unlabelled_files and --unlabelled_dir"
        )
    if source.pixel_cache:
        raise ValueError("the images of two domains are decoded here: leave out --pixel_cache")
    images = load_image_datasets(source, seed=seed)
    if target_files is None:
        return images, digits()
    target = DataArguments(
        train_files=target_files,
        image_bits=source.image_bits,
        skip_damaged_images=source.skip_damaged_images,
        reduced_decoding=source.reduced_decoding,
        validation_files=target_validation_files,
        image_column_name=source.image_column_name,
        label_column_name=source.label_column_name,
    )
    return images, load_image_datasets(target, seed=seed)


def prepared_domains(
    source: ImageDatasets, target: ImageDatasets, processor: BaseImageProcessor, data: DataArguments, *, seed: int
) -> Domains:
    """Prepare the images of two domains by one processor.

    Args:
        source: The images of the source, in the columns that `data` names.
        target: Those of the target, in the same columns, or in `image` and `label`.
        processor: The image processor.
        data: The names of the columns, and whether less of large JPEG files to train on is decoded.
        seed: Seed of the order in which images of the target come.

    Raises:
        ValueError: If the domains have other classes.
    """
    if sorted(source.labels) != sorted(target.labels):
        raise ValueError(f"source and target must have the same classes, got {source.labels} and {target.labels}")
    columns: dict[str, Any] = {"image_column": data.image_column_name, "label_column": data.label_column_name}
    target_columns = columns if "image" not in target.train.column_names else {}
    of_source = ImageTransform(processor, **columns)
    of_target = ImageTransform(processor, **target_columns)
    # Evaluations decode in full.
    reduced: dict[str, Any] = {"reduced_decoding": data.reduced_decoding}
    without_labels = ImageTransform(processor, **{**target_columns, "label_column": None}, **reduced)
    prepared = prepare(source.train, ImageTransform(processor, **columns, **reduced))
    return Domains(
        source=prepared,
        both=PairedDomains(prepared, prepare(target.train, without_labels), seed=seed),
        # A run is measured on the first of them.
        validation={"target": prepare(target.validation, of_target), "source": prepare(source.validation, of_source)},
        processor=processor,
        labels=source.labels,
    )


def trainer_of(
    student: PreTrainedModel,
    domains: Domains,
    args: DistillationArguments,
    *,
    train: Any = None,
    share: float = 1.0,
    teacher: nn.Module | None = None,
    stages: Sequence[Stage] | None = None,
) -> DistillationTrainer:
    """Return the trainer of a model that is evaluated on both domains.

    Args:
        student: The model.
        domains: The images.
        args: The training arguments, but for the length.
        train: What it is trained on; by default the source.
        share: The share of the steps that it takes.
        teacher: Its teacher, if it has one.
        stages: What it learns; by default the labels.
    """
    steps = max(1, round(args.max_steps * share)) if args.max_steps > 0 else -1
    length: dict[str, Any] = {"num_train_epochs": args.num_train_epochs * share, "max_steps": steps}
    return DistillationTrainer(
        student,
        replace(args, **length),
        teacher=teacher,
        stages=stages,
        train_dataset=domains.source if train is None else train,
        eval_dataset=domains.validation,
        processing_class=domains.processor,
        compute_metrics=classification_metrics(),
    )
