"""Rows: in which order a run shows the rows of its training set, and where it is in a pass over them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, RandomSampler, Sampler

from hf_abkd.data.draws import number_of
from hf_abkd.data.paired_domains import PairedDomains
from hf_abkd.data.streams import RepeatedStream
from hf_abkd.data.subsets import LOOKED_AT
from hf_abkd.models.tasks.task import NO_LABEL
from hf_abkd.stages.arguments import DistillationArguments

logger = logging.getLogger(__name__)

# Of fewer labels it is no wonder that they are one class.
_FEWEST = 8


class TrainingRows:
    """The rows of a training set as a run shows them: pass after pass, in orders that follow from seed and pass alone.

    Every pass of a run has its own number, over all stages, and the order of its rows is a hash of seed and number: it
    does not depend on the processes, the workers, the stages before or where the run was resumed, and no two seeds
    have an order in common. The rows of a stream come as the stream gives them in this pass.

    Args:
        arguments: Returns the training arguments of the run.

    Attributes:
        number: The pass that runs, or ran last; -1 before the first.
    """

    def __init__(self, arguments: Callable[[], DistillationArguments]) -> None:
        self._arguments = arguments
        self.number = -1
        # The first pass of the stage, the step of the run at which the pass began, and whether all of it was read.
        self._first, self._began, self._is_over = 0, 0, False
        self._stream: RepeatedStream | None = None
        self._resumed: Mapping[str, Any] | None = None
        self._labels = _Labels()

    @property
    def seed(self) -> int:
        """The seed of the orders."""
        args = self._arguments()
        seed: int = args.seed if args.data_seed is None else args.data_seed
        return seed

    # ---- What the data loader reads ----

    def sampler(self, sampler: Any) -> Any:
        """Return the sampler of a training set: the run's own in the place of a random one."""
        return _Order(len(sampler), self) if type(sampler) is RandomSampler else sampler

    @contextmanager
    def readable(self, dataset: Any, is_training: bool) -> Iterator[Any]:
        """Give a data set as a data loader reads it, and drop the last rows in training alone meanwhile."""
        args = self._arguments()
        if is_training:
            yield self._stream_of(dataset) if isinstance(dataset, IterableDataset) else dataset
            return
        dropped, args.dataloader_drop_last = args.dataloader_drop_last, False
        try:
            yield dataset
        finally:
            args.dataloader_drop_last = dropped

    def _stream_of(self, dataset: Any) -> RepeatedStream:
        if self._stream is None or self._stream.stream is not dataset:
            workers = self._arguments().dataloader_num_workers
            self._stream = RepeatedStream(dataset, workers=workers, seed=self.seed)
        return self._stream

    # ---- Passes ----

    def begin_run(self, saved: Mapping[str, Any] | None, checkpoint: Path | None, *, inside: bool) -> None:
        """Begin before the first pass, or behind those that a checkpoint tells of.

        Args:
            saved: What `state` returned for the checkpoint; None without one, or for one of an older version.
            checkpoint: Its folder.
            inside: Whether the run goes on inside of the stage that the checkpoint is of.

        Raises:
            ValueError: If the rows of the checkpoint come in another order.
        """
        self.number, self._resumed, self._labels = -1, None, _Labels()
        if checkpoint is None or self._arguments().ignore_data_skip:
            return
        if saved is None and inside:
            logger.warning(
                "%s was written by a version with other orders of rows: what is left of its epoch may show some rows "
                "twice and others never",
                checkpoint,
            )
        if saved is None:
            return
        if saved["seed"] != self.seed and inside:
            raise ValueError(
                f"{checkpoint} is of a run whose rows come in the order of seed {saved['seed']}, and here it is "
                f"{self.seed}: give that seed (or data_seed) to resume, or ignore_data_skip to begin the epoch anew"
            )
        if "pass" in saved:
            self.number = saved["first"] - 1 if inside else saved["pass"]
            self._resumed = saved if inside else None

    def begin_stage(self) -> None:
        """Give a stage passes of its own."""
        self._first = self.number + 1

    def place(self, done: int, steps_per_pass: int) -> tuple[int, int]:
        """Return the passes of a resumed stage that are over, and the batches of the next one that were shown.

        Args:
            done: How many steps of the stage are done.
            steps_per_pass: Optimiser steps of a pass, of data whose length is known.
        """
        args = self._arguments()
        accumulation = 0 if args.ignore_data_skip else args.gradient_accumulation_steps
        over, steps = divmod(done, steps_per_pass)
        if self._resumed is not None:
            over, steps = self._resumed["pass"] - self._first, self._resumed["steps"]
            if steps == steps_per_pass:
                over, steps = over + 1, 0
        return over, steps * accumulation

    def begin_pass(self, dataset: Any, number: int, epoch: int, step: int) -> int:
        """Begin a pass, before the data loader does, and return its number.

        Args:
            dataset: The training set.
            number: Which epoch of the run begins, of data whose length is known.
            epoch: Which epoch of the stage.
            step: How many steps of the run are done.
        """
        stream = isinstance(dataset, IterableDataset)
        self.number = self._first + epoch if stream else number
        resumed, self._resumed = self._resumed, None
        again = resumed is not None and resumed["pass"] == self.number
        self._began, self._is_over = step - (resumed["steps"] if resumed is not None and again else 0), False
        if self._stream is not None and stream:
            self._stream.begin(self.number, resumed["rows"] if resumed is not None and again else ())
        if isinstance(dataset, PairedDomains):
            dataset.set_epoch(self.number)
        return self.number

    def whole(self, labels: Sequence[Tensor | None], wanted: int, step: int, rows: float) -> bool:
        """Return whether the batches of a step are there; if not, the pass is over.

        The last batches of a stream are left out if they are too few for a step: their gradients would be added to
        those of the next pass. A stream whose first thousand labels are one class is warned of.

        Args:
            labels: The labels of each batch, (N,), or None.
            wanted: How many batches a step has.
            step: How many steps of the run are done.
            rows: How many rows there will be in all.

        Raises:
            ValueError: If the pass gave no step at all.
        """
        if len(labels) == wanted:
            args = self._arguments()
            for batch in labels if self._stream is not None and args.process_index == 0 else ():
                self._labels.add(batch, min(rows, LOOKED_AT) / args.world_size)
            return True
        if step == self._began:
            raise ValueError(
                f"pass {self.number + 1} over the training stream gave {len(labels)} batches, and a step takes "
                f"{wanted}. A stream has to give its rows each time that it is iterated, and enough of them for a step "
                "(per_device_train_batch_size, gradient_accumulation_steps)"
            )
        self._is_over = True
        return False

    def state(self, step: int) -> dict[str, Any]:
        """Return what a resumed run needs to go on with the same rows, as a checkpoint holds it.

        Args:
            step: How many steps of the run are done.
        """
        if self._stream is None or self.number < 0:
            return {"seed": self.seed}
        here = {"pass": self.number, "steps": step - self._began, "rows": self._stream.first_rows()}
        nothing = {"pass": self.number + 1, "steps": 0, "rows": []}
        return {"seed": self.seed, "first": self._first, **(nothing if self._is_over else here)}


class _Order(Sampler[int]):
    """The rows of a data set, in the order of the pass that runs."""

    def __init__(self, count: int, rows: TrainingRows) -> None:
        self._count, self._rows = count, rows

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        seed = number_of("order", self._rows.seed, self._rows.number)
        order: list[int] = torch.randperm(self._count, generator=torch.Generator().manual_seed(seed)).tolist()
        return iter(order)


class _Labels:
    """Whether the first labels of a stream are one class."""

    def __init__(self) -> None:
        self._seen = 0
        self._least: Tensor | None = None
        self._largest: Tensor | None = None

    def add(self, labels: Tensor | None, limit: float) -> None:
        if self._seen < 0 or labels is None or labels.ndim != 1 or not len(labels):
            return
        # On the device: reading it waits for everything that runs there. Rows without a label are of no class.
        least = torch.where(labels == NO_LABEL, torch.iinfo(labels.dtype).max, labels).min()
        self._least = least if self._least is None else torch.minimum(self._least, least)
        self._largest = labels.max() if self._largest is None else torch.maximum(self._largest, labels.max())
        self._seen += len(labels)
        if self._seen < limit:
            return
        if self._seen >= _FEWEST and (self._least == self._largest).item():
            logger.warning(
                "the first %d labels of the training stream are all %s: it is sorted by class, and is not shuffled as "
                "other data are. Shuffle it with a seed and a buffer: stream.shuffle(seed=0, buffer_size=10_000), or "
                "a larger --shuffle_buffer_size",
                self._seen,
                self._largest.item(),
            )
        # Looked at enough.
        self._seen = -1
