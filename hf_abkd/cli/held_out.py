"""Held-out images: training images that are kept apart, for what is measured while a student is trained."""

from __future__ import annotations

from dataclasses import replace

from datasets import Dataset, IterableDataset

from hf_abkd.cli.workload import Workload


def held_out_of(work: Workload, count: int, *, flag: str) -> tuple[Workload, Dataset]:
    """Return a workload whose last training images are kept apart, and these.

    Args:
        work: The workload.
        count: How many images are kept apart.
        flag: The flag that asks for it, for the error.

    Raises:
        ValueError: If the training set is a stream.
    """
    if isinstance(work.train, IterableDataset):
        raise ValueError(f"{flag} keeps the last training images, and those of a stream are not known")
    rows = len(work.train)
    kept = work.train.select(range(rows - count))
    return replace(work, train=kept), work.train.select(range(rows - count, rows))
