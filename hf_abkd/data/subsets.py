"""Subsets: some rows of a data set, drawn by a seed, with every class in its share."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from datasets import Dataset, Image, IterableDataset

from hf_abkd.data.columns import Part
from hf_abkd.data.draws import number_of

logger = logging.getLogger(__name__)

#: How many labels of a stream are looked at to find out whether it is sorted by class.
LOOKED_AT = 1000


def drawn_rows(labels: Sequence[int], count: int, *, seed: int) -> list[int]:
    """Return so many rows with every class in its share, rising; all rows if there are no more.

    Of each class there is a row if `count` is not below the number of classes. More rows with the same seed are these
    and others.

    Args:
        labels: The class of every row.
        count: How many rows.
        seed: Which of them.
    """
    order = np.random.default_rng(number_of("subset", seed) % 2**64).permutation(len(labels))
    _, classes, sizes = np.unique(np.asarray(labels)[order], return_inverse=True, return_counts=True)
    # The place of each row among those of its class, as a share of them: by it the classes take turns.
    places = np.empty(len(labels))
    places[np.argsort(classes, kind="stable")] = np.concatenate([np.arange(size) / size for size in sizes])
    return sorted(order[np.argsort(places, kind="stable")[:count]].tolist())


def shuffled(rows: Dataset | IterableDataset, *, seed: int, buffer_size: int) -> Dataset | IterableDataset:
    """Return a stream in another order in each epoch, as far as its buffer goes; other data as they are.

    Args:
        rows: The rows.
        seed: The seed of the orders.
        buffer_size: From how many rows the next one is drawn; 0 leaves the stream in its order.
    """
    if isinstance(rows, Dataset) or buffer_size == 0:
        return rows
    # Files are read in turns, with a wait of seconds at the end of each pass and look; one alone takes none.
    takes_turns = "max_buffer_input_shards" in inspect.signature(rows.shuffle).parameters and rows.num_shards == 1
    turns = {"max_buffer_input_shards": 1} if takes_turns else {}
    return rows.shuffle(seed=number_of("stream", seed) % 2**64, buffer_size=buffer_size, **turns)


def first_of_stream(part: Part, count: int, *, image: str, label: str, seed: int, buffer_size: int, flag: str) -> Part:
    """Return some rows of a stream, the same ones in every epoch and process: the first that its buffer gives.

    Which rows there are is not known before they are read, so classes need not have their share.

    Args:
        part: The rows.
        count: How many of them.
        image: The column of the images.
        label: The column of the labels.
        seed: The seed of the buffer.
        buffer_size: From how many rows the next one is drawn.
        flag: The flag that asks for it, for messages.
    """
    features = part.rows.features
    # Images stay as they are stored, to be decoded when they are read.
    stored = part.rows.cast_column(image, Image(decode=False))
    rows = shuffled(stored, seed=seed, buffer_size=buffer_size)
    _warn_of_one_class(rows.select_columns([label]).take(min(count, LOOKED_AT)), features[label], part.origin, flag)
    # `take` alone would give others in each epoch, as the buffer is filled anew.
    fixed = IterableDataset.from_generator(_first_rows, features=features, gen_kwargs={"rows": rows, "count": count})
    return Part(fixed, part.origin)


def _first_rows(rows: IterableDataset, count: int) -> Iterator[dict[str, Any]]:
    # In batches, as single rows would be shared out among the workers of a data loader.
    for batch in islice(rows.iter(batch_size=1), count):
        yield {name: values[0] for name, values in batch.items()}


def _warn_of_one_class(rows: IterableDataset, feature: Any, origin: str, flag: str) -> None:
    (column,) = rows.column_names
    labels, names = [row[column] for row in rows], feature.names
    if len(set(labels)) == 1 < min(len(labels), len(names)) and labels[0] in range(len(names)):
        logger.warning(
            "%s: the rows of %s are all of class %r, as those of the stream are sorted by class. Raise "
            "--shuffle_buffer_size, or leave out --streaming",
            origin,
            flag,
            names[labels[0]],
        )
