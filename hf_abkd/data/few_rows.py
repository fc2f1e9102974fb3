"""A few rows of a data set, to look at before a run."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from torch.utils.data import IterableDataset


def rows_of(dataset: Any, places: Sequence[int]) -> list[Any]:
    """Return rows of a data set at some places, leaving out places behind its end; of a stream so many first ones.

    Raises:
        ValueError: If there are none.
    """
    is_stream = isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__")
    if is_stream or list(places) == list(range(len(places))):
        rows = list(itertools.islice(iter(dataset), len(places)))
    else:
        rows = [dataset[place] for place in places if place < len(dataset)]
    if not rows:
        raise ValueError("the data set is empty: nothing to train on or to measure")
    return rows
