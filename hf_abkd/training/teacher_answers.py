"""What the teacher of a run answers to a few labelled images, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import IterableDataset
from torch import Tensor
from torch.utils.data import IterableDataset as TorchStream

from hf_abkd.data.batch import Batch
from hf_abkd.models.outputs import LOGITS
from hf_abkd.models.tasks.task import NO_LABEL
from hf_abkd.teachers.source import TeacherSource
from hf_abkd.training.missing_labels import KnownLabels

# How many images are looked at, and how many of them at once; of a stream no more than that.
_IMAGES, _AT_ONCE = 256, 32
#: Reads the rows of a data set at some places, or as many first ones of a stream.
Reader = Callable[[Any, Sequence[int]], Batch]


@dataclass(frozen=True)
class TeacherAnswers:
    """Asks a teacher, or what was stored of one.

    Args:
        source: What teaches.
        read: Reads some rows as the models take them.
    """

    source: TeacherSource
    read: Reader

    @torch.no_grad()
    def to(self, dataset: Any) -> tuple[Tensor, Tensor]:
        """Return the labels of a few images of a data set, (N,), and the teacher's logits, (N, K); on the CPU.

        There are none of either if the images have no labels, or no logits were stored of the teacher.
        """
        truth, answers = [], []
        for batch in self._batches(dataset):
            logits = None if batch.labels is None else self._logits(batch)
            if batch.labels is None or logits is None:
                break
            labelled = batch.labels != NO_LABEL
            truth.append(batch.labels[labelled].cpu())
            answers.append(logits[labelled].float().cpu())
        return (
            (torch.cat(truth), torch.cat(answers)) if truth else (torch.zeros(0, dtype=torch.long), torch.zeros(0, 1))
        )

    def _batches(self, dataset: Any) -> Iterator[Batch]:
        # A stream of torch has the method that reads a row, too, which only raises.
        if isinstance(dataset, (IterableDataset, TorchStream)):
            yield self.read(dataset, range(_AT_ONCE))
        elif dataset is not None and hasattr(dataset, "__getitem__"):
            known = KnownLabels.of(dataset)
            if known is None or not known.labelled:
                places = some_places(len(dataset), _IMAGES)
            else:
                # A few with labels may lie among very many without.
                places = [known.labelled[place] for place in some_places(len(known.labelled), _IMAGES)]
            for start in range(0, len(places), _AT_ONCE):
                yield self.read(dataset, places[start : start + _AT_ONCE])

    def _logits(self, batch: Batch) -> Tensor | None:
        """Return what the teacher says of some images, (N, K); None if it was not stored."""
        cache, live = self.source.cache, self.source.live
        if cache is None:
            return None if live is None else live.precise_logits(batch.teacher())
        columns = {name: column for name, column in cache.table.columns.items() if name == LOGITS}
        return cache.decode(batch.cached, columns)[LOGITS] if columns and batch.cached is not None else None


def some_places(rows: int, count: int) -> list[int]:
    """Return places all over a data set, in order, the same every time; even steps might meet one class alone."""
    chosen = torch.randperm(rows, generator=torch.Generator().manual_seed(0))[:count]
    places: list[int] = chosen.sort().values.tolist()
    return places
