"""CachedTargets: a collator that puts the targets of a cached teacher into the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hf_abkd.data.batch import CACHED_TARGETS
from hf_abkd.data.hashes import pixel_hashes
from hf_abkd.data.transform import SAMPLE_IDS
from hf_abkd.teachers.cache.encoding import as_tensors
from hf_abkd.teachers.cache.teacher_cache import TeacherCache

Collator = Callable[[Sequence[Any]], dict[str, Any]]


class CachedTargets:
    """A collator that puts the teacher's targets of one view of each image into the batch.

    It works in the workers of a data loader, so that reading goes on while the student trains.

    Args:
        collator: Makes a batch of rows.
        cache: The targets.
        columns: The columns to read; those that the terms of a stage need.
        images: The name of the images in a batch.
        view: Which view, (), int64, in shared memory: the trainer sets it from epoch to epoch.
    """

    def __init__(
        self, collator: Collator, cache: TeacherCache, columns: Sequence[str], images: str, view: Tensor
    ) -> None:
        self.collator = collator
        self.cache = cache
        self.columns = tuple(dict.fromkeys(columns))
        self.images = images
        self.view = view

    def __call__(self, rows: Sequence[Any]) -> dict[str, Any]:
        """Return a batch with its targets.

        Raises:
            ValueError: If the images are not those that the teacher saw, or not prepared in the same way.
        """
        batch = dict(self.collator(rows))
        table, pixels = self.cache.table, batch.get(self.images)
        if not isinstance(pixels, Tensor) or pixels.dtype != torch.uint8 or SAMPLE_IDS not in batch:
            raise ValueError(
                f"the rows of the training set have no ids or no pixels ({sorted(batch)}), by which the targets of a "
                "cached teacher are found and checked. Prepare it with prepare(dataset, cache.transform(processor))."
            )
        places = table.rows(batch[SAMPLE_IDS].numpy(), int(self.view))
        stored = table.read(places, ["pixels", *self.columns])
        other = stored.pop("pixels") != pixel_hashes(pixels)
        if other.any():
            raise ValueError(
                f"{other.sum()} of {len(other)} images are prepared otherwise than those that the teacher saw "
                f"({tuple(pixels.shape[1:])} here, images of {self.cache.image_size} there): its targets would belong "
                "to other pictures. Prepare them with cache.transform(processor), by the versions of transformers and "
                "Pillow that the cache was written with, or write the cache again."
            )
        batch[CACHED_TARGETS] = as_tensors(stored)
        return batch
