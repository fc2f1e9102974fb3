"""A few rows of a data set, to look at before a run."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any


def rows_of(dataset: Any, places: Sequence[int]) -> list[Any]:
    """Return rows of a data set at some places, leaving out places behind its end; of a stream so many first ones."""
    first = range(len(places))
    if list(places) == list(first) or not hasattr(dataset, "__getitem__"):
        return list(itertools.islice(iter(dataset), len(places)))
    return [dataset[place] for place in places if place < len(dataset)]
