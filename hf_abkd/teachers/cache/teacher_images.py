"""Images of a data set as the teacher of a cache sees them: prepared, hashed, loaded in batches, and a few of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from torch.utils.data import DataLoader, Subset
from transformers import BaseImageProcessor, default_data_collator

from hf_abkd.data.transform import ImageTransform, prepare


def prepared_for_teacher(
    dataset: Dataset,
    processor: BaseImageProcessor,
    image_column: str,
    num_channels: int,
    *,
    reduced_decoding: bool = False,
) -> Dataset:
    """Return the images of a data set, without labels, as the teacher's processor prepares them."""
    transform = ImageTransform(
        processor,
        teacher_processor=processor,
        image_column=image_column,
        label_column=None,
        num_channels=num_channels,
        reduced_decoding=reduced_decoding,
    )
    return prepare(dataset, transform)


def batches_of(images: Any, places: Sequence[int], batch_size: int, workers: int = 0) -> Any:
    """Return a loader of the prepared images at some places, in this order."""
    return DataLoader(
        Subset(images, places), batch_size=batch_size, num_workers=workers, collate_fn=default_data_collator
    )


def spread_places(rows: int, count: int) -> list[int]:
    """Return places in a data set that are spread evenly over it; of more places than rows some come twice."""
    return [int(place) for place in np.linspace(0, rows - 1, count).round()]
