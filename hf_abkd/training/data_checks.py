"""What the data of a run are refused for: rows that are no mappings, and labels of classes that there are not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedConfig, default_data_collator
from transformers.trainer_utils import has_length

from hf_abkd.data.decoding import SampleError
from hf_abkd.data.given_columns import largest_label
from hf_abkd.data.paired_domains import PairedDomains
from hf_abkd.data.transform import ImageTransform
from hf_abkd.models.tasks.task import Task


def first_dataset(dataset: Any) -> Any:
    """Return a data set, or the first of several that have names."""
    return next(iter(dataset.values())) if isinstance(dataset, dict) else dataset


def first_prefix(dataset: Any) -> str:
    """Return what the metrics of a data set begin with where a run evaluates on it, or on the first of several."""
    return f"eval_{next(iter(dataset))}" if isinstance(dataset, dict) and dataset else "eval"


def number_of_images(dataset: Any) -> int | None:
    """Return how many different images a training set has at most; None for a stream, or without one."""
    if isinstance(dataset, PairedDomains):
        return len(dataset.source) + len(dataset.target_domain)
    return len(dataset) if has_length(dataset) else None


def sampled_dataset(train: Any, evaluation: Any, task: Task, config: PreTrainedConfig) -> Any:
    """Return the data set whose first rows stand for all: the training set, or else what is evaluated on.

    Args:
        train: The training set, or None.
        evaluation: What is evaluated on, a data set or several by name, or None.
        task: What the models do.
        config: The student's config.

    Raises:
        ValueError: If there is neither, or they have labels that the student has no class for.
    """
    dataset = train if train is not None else first_dataset(evaluation)
    if dataset is None:
        raise ValueError("give a train_dataset or an eval_dataset: layers are checked on a batch of it")
    task.check_labels(config, getattr(dataset, "features", None) or {})
    check_range(task.classes(config), train, evaluation)
    return dataset


def check_range(classes: int, *datasets: Any) -> None:
    """Refuse prepared data sets with labels that the student has no class for; all of their labels are looked at.

    Args:
        classes: How many classes the student has.
        *datasets: Data sets to train or to evaluate on, prepared or not; None, or several by name, too.

    Raises:
        ValueError: If a label is not below the number of classes.
    """
    for given in datasets:
        for dataset in given.values() if isinstance(given, dict) else [given]:
            if isinstance(dataset, Dataset):
                _check_range(dataset, classes)


def _check_range(dataset: Dataset, classes: int) -> None:
    transform = dataset.format["format_kwargs"].get("transform")
    label = transform.label_column if isinstance(transform, ImageTransform) else None
    if label is None or label not in dataset.column_names:
        return
    largest, row = largest_label(dataset, label)
    if largest >= classes:
        raise ValueError(
            f"column {label!r} holds the label {largest} in row {row:,}, and the student has the "
            f"{classes} classes 0 to {classes - 1}. Load the student with num_labels={largest + 1}, or number the "
            "labels from 0"
        )


@dataclass(frozen=True)
class CheckedBatches:
    """A collator whose batches are refused where no step could be made of them, before they reach a device.

    Args:
        collator: Makes a batch of rows.
        images: The name of the images.
        labels: The name of the labels.
        task: What the models do.
        config: The student's config.
    """

    collator: Callable[[Sequence[Any]], Any]
    images: str
    labels: str
    task: Task
    config: PreTrainedConfig

    def __call__(self, rows: Sequence[Any]) -> Any:
        """Return a batch.

        Raises:
            TypeError: If a row is a tuple, as those of torchvision and `TensorDataset` are, and no other collator was
                given.
            SampleError: If a label is no class of the student, or images have several sizes.
        """
        if self.collator is default_data_collator and not isinstance(rows[0], Mapping):
            raise TypeError(
                f"a row of the data set is a {type(rows[0]).__name__}, and models take their inputs by name: return "
                f"{{'pixel_values': image, {self.labels!r}: label}} from its __getitem__, or give a data_collator that "
                f"makes a dict of such rows: lambda rows: {{'pixel_values': torch.stack([row[0] for row in rows]), "
                f"{self.labels!r}: torch.tensor([int(row[1]) for row in rows])}}"
            )
        for row in rows:
            self._check_row(row)
        if self.collator is default_data_collator:
            self._check_sizes(rows)
        batch = self.collator(rows)
        labels = batch.get(self.labels) if isinstance(batch, Mapping) else None
        if isinstance(labels, Tensor):
            try:
                self.task.check_truth(labels, self.task.classes(self.config))
            except ValueError as error:
                raise SampleError(str(error)) from error
        return batch

    def _check_sizes(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Refuse images that the usual collator cannot stack."""
        shapes = [
            tuple(row[self.images].shape) for row in rows if isinstance(row.get(self.images), (Tensor, np.ndarray))
        ]
        other = next((shape for shape in shapes if shape != shapes[0]), None)
        if other is not None:
            raise SampleError(
                f"images of one batch have the shapes {shapes[0]} and {other}; resize or crop all of them to one size"
            )

    def _check_row(self, row: Any) -> None:
        """Refuse labels that the usual collator leaves out, or cuts to whole numbers, without a word."""
        if not isinstance(row, Mapping):
            return
        for name in {self.labels, "label", "label_ids"} & row.keys():
            label = row[name]
            if label is None:
                raise SampleError(
                    f"a row of the data set has no label ({name!r} is None): give it -100 to train on it without one, "
                    f"or leave {name!r} out of all rows"
                )
            if isinstance(label, (str, float)):
                remedy = (
                    "number the classes, as dataset.class_encode_column does"
                    if isinstance(label, str)
                    else "correct it"
                )
                raise SampleError(
                    f"a row of the data set has the label {label!r}, and a class is a whole number; {remedy}"
                )
