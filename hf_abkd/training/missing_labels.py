"""Rows without a label: how many there are, and what is refused for it before the first step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from torch import Tensor

from hf_abkd.data.given_columns import labelled_rows
from hf_abkd.data.transform import ImageTransform
from hf_abkd.models.tasks.image_classification import IMAGE_CLASSIFICATION
from hf_abkd.models.tasks.task import NO_LABEL
from hf_abkd.training.terms.run_term import RunTerm

# How many rows are read at once where no column tells which have a label.
_AT_ONCE = 32


@dataclass(frozen=True)
class KnownLabels:
    """Which rows of a data set have a label, as a column tells.

    Args:
        labelled: The rows that have one, rising.
        count: How many rows there are.
    """

    labelled: list[int]
    count: int

    @property
    def missing(self) -> int:
        """How many rows have none."""
        return self.count - len(self.labelled)

    @classmethod
    def of(cls, dataset: Any) -> KnownLabels | None:
        """Return what a column of a data set tells; None of data whose rows would have to be read for it."""
        if not isinstance(dataset, Dataset):
            return None
        if dataset.format["type"] == "custom":
            transform = dataset.format["format_kwargs"].get("transform")
            named = [transform.label_column] if isinstance(transform, ImageTransform) else []
        else:
            # The collator of transformers takes either name.
            named = [IMAGE_CLASSIFICATION.labels, "label"]
        column = next((name for name in named if name in dataset.column_names), None)
        return None if column is None else cls(labelled_rows(dataset, column), len(dataset))


def check_complete(dataset: Any) -> None:
    """Refuse data to evaluate on that have rows without a label, as far as a column tells.

    Raises:
        ValueError: If there are such rows.
    """
    known = KnownLabels.of(dataset)
    if known is not None and known.missing:
        first = next(row for row, other in enumerate([*known.labelled, -1]) if row != other)
        refuse_missing(f"{known.missing:,} of {known.count:,} rows, the first is row {first:,},")


def check_none_missing(labels: Tensor) -> None:
    """Refuse labels of an evaluation, on the CPU, if one is missing.

    Raises:
        ValueError: If one is.
    """
    if missing := int((labels == NO_LABEL).sum()):
        refuse_missing(f"{missing:,} of {len(labels):,} rows that were read")


def refuse_missing(which: str) -> None:
    """Refuse to evaluate on rows without a label.

    Args:
        which: The rows, in words.

    Raises:
        ValueError: Always.
    """
    raise ValueError(
        f"the evaluation set has no label for {which} (-100, or None or a negative number in its column), and what is "
        "right is not known of them. Only training takes images without labels: evaluate on rows that all have one, "
        "or, to predict only, on data without labels, ImageTransform(..., label_column=None)."
    )


def check_some_labelled(terms: Iterable[RunTerm], labels: Tensor, dataset: Any, read: Any) -> None:
    """Refuse a training set without a single label where a term needs labels.

    Args:
        terms: The terms of the run.
        labels: The labels of its first rows.
        dataset: The training set, or None. Of a stream the first rows stand for nothing, and it is not read.
        read: Reads the rows of a data set at some places; rows are read until one has a label, where no column tells.

    Raises:
        ValueError: If no row has a label.
    """
    needy = next((term for term in terms if term.needs("labels")), None)
    if needy is None or (labels != NO_LABEL).any() or not hasattr(dataset, "__len__"):
        return
    known = KnownLabels.of(dataset)
    if known is None:
        has_label = any(
            (read(dataset, range(start, min(start + _AT_ONCE, len(dataset)))).labels != NO_LABEL).any()
            for start in range(0, len(dataset), _AT_ONCE)
        )
    else:
        has_label = bool(known.labelled)
    if not has_label:
        raise ValueError(
            f"term {needy.name!r} needs labels, and none of the {len(dataset):,} rows of the training set has one "
            "(-100, or None or a negative number in its column, is none). Give some rows their labels, or use terms "
            "that need none."
        )
