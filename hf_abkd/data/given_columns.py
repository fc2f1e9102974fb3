"""Given columns: whether a data set from Python has the images and labels that a transform reads."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, IterableDataset, Value

from hf_abkd.data.columns import is_text


def check_columns(dataset: Dataset | IterableDataset, image: str, label: str | None) -> None:
    """Refuse a data set without these columns, or with labels that are no class numbers.

    All labels are looked at, but for those of a stream. Images are not.

    Args:
        dataset: The rows; of a stream the columns may not be known.
        image: The column of the images.
        label: The column of the labels, or None.

    Raises:
        ValueError: If a column is missing, or a label is text, missing, negative or no whole number.
    """
    features = dataset.features
    if features is None:
        return
    for name, argument in ((image, "image_column"), (label, "label_column")):
        if name is not None and name not in features:
            without = ", or label_column=None to train without labels" if name == label else ""
            raise ValueError(
                f"the data set has no column {name!r}; its columns are {', '.join(features)}. Name the right one: "
                f"ImageTransform(..., {argument}=...){without}"
            )
    if label is None:
        return
    what = f"column {label!r} holds labels of type {features[label]}"
    if is_text(features[label]):
        raise ValueError(f"{what}; number the classes first: dataset.class_encode_column({label!r})")
    if isinstance(features[label], (ClassLabel, Value)) and isinstance(dataset, Dataset):
        _check_numbers(_labels(dataset, label), label, what)


def largest_label(dataset: Dataset, label: str) -> tuple[int, int]:
    """Return the largest label of rows whose labels were checked, and the row that has it; -1 of no rows."""
    labels = _labels(dataset, label)
    largest = pc.max(labels).as_py()
    return (-1, -1) if largest is None else (largest, pc.index(labels, largest).as_py())


def _check_numbers(labels: pa.ChunkedArray, label: str, what: str) -> None:
    if not pa.types.is_integer(labels.type):
        wrong = None
        if pa.types.is_floating(labels.type):
            # Written so that NaN fails it too.
            wrong = _first(labels, pc.invert(pc.fill_null(pc.equal(pc.floor(labels), labels), True)))
        if wrong is not None:
            raise ValueError(f"{what}, {wrong}, and a class is a whole number; correct or drop such rows")
        raise ValueError(
            f"{what}, and a class is a whole number: dataset.cast_column({label!r}, datasets.Value('int64'))"
        )
    wrong = _first(labels, pc.less(labels, 0), missing=True)
    if wrong is not None:
        raise ValueError(
            f"column {label!r} holds rows without a label (None or a negative number), the first {wrong}. Drop them, "
            "or pass label_column=None to train without labels"
        )


def _labels(dataset: Dataset, label: str) -> pa.ChunkedArray:
    """Return all labels as Arrow stores them, in the order of the rows, without touching the images."""
    return dataset.with_format("arrow").select_columns([label])[:][label]


def _first(labels: pa.ChunkedArray, wrong: Any, *, missing: bool = False) -> str | None:
    """Return the first label of which something is true, with its row; None if there is none."""
    row = pc.index(pc.fill_null(wrong, missing), True).as_py()
    return None if row < 0 else f"{labels[row].as_py()} in row {row:,}"
