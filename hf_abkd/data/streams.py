"""Streams: data sets without numbered rows, which have to give the same rows again where a run goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from hf_abkd.data.draws import number_of

# So many first rows of a pass tell whether it is the one that it was.
_COMPARED = 16


class RepeatedStream(IterableDataset[Any]):
    """A stream that is passed over again and again, and that notices where it does not repeat itself.

    A stream of `datasets` has its own order in each pass, by `set_epoch`; one of torch by a `set_epoch` of its own or a
    `torch.Generator` called `generator`, as the Trainer has it.

    Args:
        stream: The stream.
        workers: How many workers read it; 0 for none.
        seed: The seed of its generator, if it has one.
    """

    def __init__(self, stream: Any, *, workers: int, seed: int) -> None:
        self.stream = stream
        self.seed = seed
        # Shared with the workers of a data loader: what each of them read first, and what it has to be.
        self._first = _shared(max(1, workers))
        self._expected = _shared(max(1, workers))

    def begin(self, number: int, expected: Sequence[Sequence[int]] = ()) -> None:
        """Choose the pass that begins; call it before a data loader does.

        Args:
            number: Which pass it is.
            expected: What `first_rows` said of it when it was begun before.
        """
        self._first.zero_()
        self._expected.zero_()
        if expected and len(expected) != len(self._expected):
            raise ValueError(
                f"the stream was read by {len(expected)} workers and is read by {len(self._expected)}, which gives "
                "other rows: give the same --dataloader_num_workers to resume"
            )
        if expected:
            self._expected.copy_(torch.tensor(expected))
        if hasattr(self.stream, "set_epoch"):
            self.stream.set_epoch(number)
        elif isinstance(getattr(self.stream, "generator", None), torch.Generator):
            self.stream.generator.manual_seed(number_of("stream", self.seed, number))

    def first_rows(self) -> list[list[int]]:
        """Return a number for each of the first rows that each worker read in this pass, 0 for those to come."""
        numbers: list[list[int]] = self._first.tolist()
        return numbers

    def __len__(self) -> int:
        """The number of rows, if the stream says it."""
        return len(self.stream)

    def __iter__(self) -> Iterator[Any]:
        """Read the pass that was chosen.

        Raises:
            ValueError: If its first rows are others than they were, or there are none.
        """
        worker = get_worker_info()
        first, expected = (tensor[0 if worker is None else worker.id] for tensor in (self._first, self._expected))
        place = -1
        for place, row in enumerate(self.stream):
            if place < _COMPARED:
                first[place] = number = number_of("row", *_words(row)) or 1
                if expected[place] not in (0, number):
                    raise ValueError(
                        "the stream does not give the rows again that the run has seen, so that it would show some "
                        "twice and others never. Shuffle it with a seed (`stream.shuffle(seed=0)`), let its order "
                        "depend on nothing else, and resume with the files and seed of that run; or pass over this "
                        "with ignore_data_skip=True, which begins the epoch anew"
                    )
            yield row
        if place < 0 and (worker is None or worker.num_workers == 1):
            raise ValueError("the stream gave no rows: it has to give them each time that it is iterated")


def _shared(workers: int) -> Tensor:
    shared: Tensor = torch.zeros((workers, _COMPARED), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
    return shared


def _words(value: Any) -> Iterator[object]:
    """Return what tells a row from another: its numbers and words, and no pixels, which may be augmented."""
    if isinstance(value, Mapping):
        for name in sorted(value, key=str):
            yield name
            yield from _words(value[name])
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _words(one)
    elif isinstance(value, (int, str)):
        yield value
    elif isinstance(value, Tensor) and value.numel() == 1 and not value.is_floating_point():
        yield value.item()
