"""Class names: labels of any kind as numbers of one list of names, the same for training and validation rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from datasets import ClassLabel, IterableDataset, Value

from hf_abkd.data.columns import Part, is_text
from hf_abkd.data.transform import STREAMING_BATCH_SIZE
from hf_abkd.wording import listed


def _is_integer(feature: object) -> bool:
    return isinstance(feature, Value) and feature.dtype.startswith(("int", "uint"))


def class_names(part: Part, label: str) -> list[str]:
    """Return the class names in label order, from the feature or from all values of the column."""
    names = _names(part, label)
    if len(names) < 2:
        raise ValueError(
            f"{part.origin}: all rows are of one class ({listed(names, quoted=True)}), and there is nothing to tell it "
            "from; give images of two or more"
        )
    written: dict[str, str] = {}
    for name in names:
        other = written.setdefault(name.strip(), name)
        if other is not name:
            raise ValueError(
                f"{part.origin}: the classes {other!r} and {name!r} differ in spaces around the name alone, and would "
                f"be two classes; write column {label!r} in one way"
            )
    return names


def _names(part: Part, label: str) -> list[str]:
    feature = part.rows.features[label]
    if isinstance(feature, ClassLabel):
        return list(feature.names)
    where = f"{part.origin}: column {label!r} (--label_column_name)"
    if not (is_text(feature) or _is_integer(feature)):
        raise ValueError(f"{where} is {feature}; labels must be a datasets.ClassLabel, strings or integers")
    if isinstance(part.rows, IterableDataset):
        raise ValueError(
            f"{where} is {feature}, but streaming needs a datasets.ClassLabel, as the class names must be known "
            "before the first row; use files written by `datasets` with that feature, or leave out --streaming"
        )
    unique = sorted(set(labels_of(part, label)))
    if _is_integer(feature) and unique != list(range(len(unique))):
        raise ValueError(
            f"{where} holds the integers {listed(unique, quoted=True)} without class names; they must be exactly 0 to "
            "K-1. Renumber them, or use strings, which are numbered in sorted order"
        )
    return [str(value) for value in unique]


def with_class_labels(part: Part, label: str, names: list[str], *, like: Part) -> Part:
    """Return the part with labels that index `names`, the class names of `like`, as a `ClassLabel` column."""
    feature = part.rows.features[label]
    if isinstance(feature, ClassLabel):
        names_of_part = list(feature.names)
    elif _is_integer(feature):
        names_of_part = [str(index) for index in range(len(names))]
    else:
        names_of_part = names
    _check_same_names(part, names_of_part, like, names)
    if isinstance(part.rows, IterableDataset):
        return replace(part, rows=_renumbered_stream(part, label, names))
    labels = labels_of(part, label)
    if isinstance(feature, ClassLabel) or _is_integer(feature):
        if max(labels) >= len(names):
            raise ValueError(
                f"{part.origin}: label {max(labels)} in column {label!r}, but there are {len(names)} classes "
                f"(0 to {len(names) - 1})"
            )
        if isinstance(feature, ClassLabel) and names_of_part == names:
            return part
        labels = [names_of_part[number] for number in labels]
    elif not is_text(feature):
        raise ValueError(f"{part.origin}: column {label!r} is {feature}; store it like that of {like.origin}")
    index = {name: number for number, name in enumerate(names)}
    extra = set(labels) - set(names)
    if extra:
        raise ValueError(
            f"{part.origin}: labels that {like.origin} does not have: {listed(sorted(extra), quoted=True)}; "
            f"its labels are {listed(names, quoted=True)}"
        )
    # The column is swapped, not cast or mapped: either of these would copy every image.
    numbers = np.array([index[name] for name in labels], dtype=np.int64)
    rows = part.rows.remove_columns(label).add_column(label, numbers, feature=ClassLabel(names=names))
    return replace(part, rows=rows.select_columns(part.rows.column_names))


def _check_same_names(part: Part, names_of_part: list[str], like: Part, names: list[str]) -> None:
    missing, extra = sorted(set(names) - set(names_of_part)), sorted(set(names_of_part) - set(names))
    if missing or extra:
        kinds = {"missing": missing, "additional": extra}
        differences = [f"{kind} {listed(which, quoted=True)}" for kind, which in kinds.items() if which]
        raise ValueError(
            f"{part.origin} has other classes than {like.origin}: {', '.join(differences)}. Both need the same set of "
            "class names"
        )


def _renumbered_stream(part: Part, label: str, names: list[str]) -> IterableDataset:
    feature = part.rows.features[label]
    if not isinstance(feature, ClassLabel):
        raise ValueError(f"{part.origin}: column {label!r} is {feature}; streaming needs a datasets.ClassLabel")
    if list(feature.names) == names:
        return part.rows
    features = part.rows.features.copy()
    features[label] = ClassLabel(names=names)
    renumber = _Renumber(label, {number: names.index(name) for number, name in enumerate(feature.names)})
    return part.rows.map(renumber, batched=True, batch_size=STREAMING_BATCH_SIZE, features=features)


@dataclass(frozen=True)
class _Renumber:
    """Give labels their new number; picklable for data loader workers. An unlabelled row stays unlabelled."""

    label: str
    table: Mapping[int, int]

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[int | None]]:
        return {self.label: [self.table.get(number) for number in batch[self.label]]}


def labels_of(part: Part, column: str) -> list[Any]:
    """Return all labels without touching the images; raise if one is missing."""
    labels: list[Any] = part.rows.select_columns([column]).with_format("arrow")[:][column].to_pylist()
    unlabelled = sum(1 for label in labels if label is None or (isinstance(label, int) and label < 0))
    if unlabelled:
        raise ValueError(
            f"{part.origin}: {unlabelled} of {len(labels)} rows have no label (None or a negative number) in column "
            f"{column!r}. Drop them, or name other data; benchmarks often withhold the labels of their test split: "
            "see --validation_split_name"
            + (
                "; to train on their images, give them with --unlabelled_files"
                if part.origin.startswith("--train")
                else ""
            )
            + ("; of CSV files, NA, None, null and nan are no labels either" if ".csv" in part.origin else "")
        )
    return labels
