"""Given columns: whether a data set from Python has the images and labels that a transform reads, and which rows do."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, IterableDataset, Value

from hf_abkd.data.columns import is_text


def check_columns(
    dataset: Dataset | IterableDataset, image: str, label: str | None, *, unlabelled: bool = False
) -> None:
    """Refuse a data set without these columns, or with labels that are no class numbers.

    All labels are looked at, but for those of a stream. Images are not.

    Args:
        dataset: The rows; of a stream the columns may not be known.
        image: The column of the images.
        label: The column of the labels, or None.
        unlabelled: Whether rows may have no label, None or a negative number.

    Raises:
        ValueError: If a column is missing, or a label is text, no whole number or, unless `unlabelled`, missing.
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
        _check_numbers(_labels(dataset, label), label, what, unlabelled=unlabelled)


def largest_label(dataset: Dataset, label: str) -> tuple[int, int]:
    """Return the largest label of rows whose labels were checked, and the row that has it; -1 of no rows."""
    labels = _labels(dataset, label)
    largest = pc.max(labels).as_py()
    return (-1, -1) if largest is None else (largest, pc.index(labels, largest).as_py())


def labelled_rows(dataset: Dataset, label: str) -> list[int]:
    """Return the rows whose label is neither None nor negative, rising."""
    if not pa.types.is_integer(_labels(dataset, label).type):
        return []
    has_label = pc.fill_null(pc.greater_equal(_labels(dataset, label), 0), False)
    rows: list[int] = pc.indices_nonzero(has_label).to_pylist()
    return rows


def _check_numbers(labels: pa.ChunkedArray, label: str, what: str, *, unlabelled: bool) -> None:
    # A column without any value has no type.
    if unlabelled and labels.null_count == len(labels):
        return
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
    wrong = None if unlabelled else _first(labels, pc.less(labels, 0), missing=True)
    if wrong is not None:
        raise ValueError(
            f"column {label!r} holds rows without a label (None or a negative number), the first {wrong}. Drop them, "
            "pass unlabelled=True to train on them beside the others, or label_column=None to train without labels"
        )


def _labels(dataset: Dataset, label: str) -> pa.ChunkedArray:
    """Return all labels as Arrow stores them, in the order of the rows, without touching the images."""
    return dataset.with_format("arrow").select_columns([label])[:][label]


def _first(labels: pa.ChunkedArray, wrong: Any, *, missing: bool = False) -> str | None:
    """Return the first label of which something is true, with its row; None if there is none."""
    row = pc.index(pc.fill_null(wrong, missing), True).as_py()
    return None if row < 0 else f"{labels[row].as_py()} in row {row:,}"
