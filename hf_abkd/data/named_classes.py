"""The names that a data set has for its classes, found behind what prepares its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets import ClassLabel, Dataset, IterableDataset
from torch.utils.data import ConcatDataset, Subset

from hf_abkd.data.paired_domains import PairedDomains
from hf_abkd.data.transform import ImageTransform, class_names_of_stream
from hf_abkd.models.tasks.image_classification import IMAGE_CLASSIFICATION
from hf_abkd.models.tasks.task import NO_LABEL


@dataclass(frozen=True)
class NamedClasses:
    """The names of the classes of a data set, and where they come from.

    Args:
        names: The names, in the order of the labels.
        column: The column of labels.
        rows: The data set behind a transform of the user's, which may make other numbers of that column; None where it
            is certain that the labels of a batch are those of the column.
    """

    names: tuple[str, ...]
    column: str
    rows: Dataset | None = None

    def labels(self, places: Sequence[int]) -> list[int]:
        """Return the labels of some rows as the column holds them; -100 where it holds none."""
        column: list[int | None] = (
            [] if self.rows is None else self.rows.with_format(None).select(places)[self.column][:]
        )
        return [NO_LABEL if label is None or label < 0 else label for label in column]


def named_classes(dataset: Any) -> list[NamedClasses]:
    """Return what the parts of a data set call their classes; a part is usually all of it.

    Args:
        dataset: What a trainer is given: a data set of `datasets`, prepared or not, two domains, a subset or a chain
            of these. Of others nothing is known.
    """
    if isinstance(dataset, PairedDomains):
        return named_classes(dataset.source)
    if isinstance(dataset, Subset):
        return [NamedClasses(part.names, part.column) for part in named_classes(dataset.dataset)]
    if isinstance(dataset, ConcatDataset):
        return [found for part in dataset.datasets for found in named_classes(part)]
    if isinstance(dataset, IterableDataset) and (names := class_names_of_stream(dataset)) is not None:
        return [NamedClasses(*names)]
    if not isinstance(dataset, (Dataset, IterableDataset)):
        return []
    features = dataset.features or {}
    columns = {name: tuple(feature.names) for name, feature in features.items() if isinstance(feature, ClassLabel)}
    if not isinstance(dataset, Dataset) or dataset.format["type"] != "custom":
        # The collator of transformers takes either name.
        chosen = [name for name in (IMAGE_CLASSIFICATION.labels, "label") if name in columns]
        return [NamedClasses(columns[name], name) for name in chosen[:1]]
    transform = dataset.format["format_kwargs"]["transform"]
    if isinstance(transform, ImageTransform):
        names_of_column = columns.get(transform.label_column or "")
        return [NamedClasses(names_of_column, str(transform.label_column))] if names_of_column else []
    # Which column a transform of the user's reads is not known, and of several none is more likely.
    return [NamedClasses(names, name, dataset) for name, names in columns.items()] if len(columns) == 1 else []
