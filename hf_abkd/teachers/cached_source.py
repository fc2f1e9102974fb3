"""What a teacher said of the training set as what teaches a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import BaseImageProcessor

from hf_abkd.data.batch import Batch
from hf_abkd.data.table.columns import Column
from hf_abkd.layers.capture import CapturePoint
from hf_abkd.teachers.cache.cached_targets import CachedTargets
from hf_abkd.teachers.cache.teacher_cache import TeacherCache
from hf_abkd.teachers.source import Collator, TeacherSource, Wanted


class CachedSource(TeacherSource):
    """What a teacher said of the training set, in the place of the teacher.

    Args:
        cache: The stored targets.
    """

    def __init__(self, cache: TeacherCache) -> None:
        self.cache: TeacherCache = cache
        self._columns: dict[str, Column] = {}
        self._wanted = Wanted()

    @property
    def processor(self) -> BaseImageProcessor:
        """The image processor of the teacher that was cached."""
        return self.cache.processor

    def identify(self) -> dict[str, Any]:
        """Return class, name and fingerprint of the teacher that was cached."""
        return self.cache.reference

    def connect(
        self, points: Mapping[str, CapturePoint], columns: Mapping[str, Column], inputs: Mapping[str, Any]
    ) -> None:
        """Take the columns in."""
        self._columns = dict(columns)

    def begin(self, wanted: Wanted) -> None:
        """Read these columns."""
        self._wanted = wanted

    def targets(self, batch: Batch) -> dict[str, Any]:
        """Return the stored targets of a batch."""
        columns = {name: column for name, column in self._columns.items() if name in self._wanted.names}
        return self.cache.decode(batch.cached, columns) if columns else {}

    def collator(self, collator: Collator, wanted: frozenset[str] | None, images: str, view: Tensor) -> Collator:
        """Return a collator that reads the targets of the images from the disk."""
        if wanted is None:
            # Before the layers are paired nobody knows which are read; of a few rows all of them cost nothing.
            columns = list(self.cache.table.columns)
        else:
            columns = [column.name for name, column in self._columns.items() if name in wanted]
        return CachedTargets(collator, self.cache, columns, images, view) if columns else collator
