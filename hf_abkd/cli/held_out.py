"""Held-out images: training images that are kept apart, for what is measured while a student is trained."""

from __future__ import annotations

from dataclasses import replace

from datasets import ClassLabel, Dataset, IterableDataset

from hf_abkd.cli.workload import Workload
from hf_abkd.data.subsets import drawn_rows


def held_out_of(work: Workload, count: int, *, flag: str, seed: int) -> tuple[Workload, Dataset]:
    """Return a workload without some of its labelled training images, of each class its share, and these images.

    Args:
        work: The workload.
        count: How many images are kept apart.
        flag: The flag that asks for it, for the error.
        seed: Which images.

    Raises:
        ValueError: If the training set is a stream, or has no more images.
    """
    if isinstance(work.train, IterableDataset):
        raise ValueError(f"{flag} keeps some training images apart, and those of a stream are not known")
    rows = len(work.train) - work.unlabelled
    if not 0 < count < rows:
        raise ValueError(f"{flag} keeps {count} training images apart; of {rows}, it can be from 1 to {rows - 1}")
    label = next(name for name, feature in work.train.features.items() if isinstance(feature, ClassLabel))
    numbers = work.train.select_columns([label]).with_format("arrow")[:][label].to_pylist()
    # Those without labels are the last rows, and what is measured may need labels.
    apart = set(drawn_rows(numbers[:rows], count, seed=seed))
    rest = [row for row in range(len(work.train)) if row not in apart]
    return replace(work, train=work.train.select(rest)), work.train.select(sorted(apart))
