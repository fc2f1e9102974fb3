"""A data set over batches of images that become more while a model is trained on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import Dataset as TorchDataset

from hf_abkd.data.transform import ImageTransform
from hf_abkd.methods.deep_inversion.image_shards import ImageShards, image_of
from hf_abkd.settings import whole_number


class GrowingImages(TorchDataset[dict[str, Any]]):
    """A data set of fixed length over batches that become more while a model is trained on it.

    Which row stands at an index follows from the seed and from how many batches are visible, and from nothing else: a
    resumed run reads what an uninterrupted one would. The rows come in a drawn order, each as often as any other, and
    begin anew when all were there; with more rows than the length, so many of them are drawn.

    Every process that reads holds the PNG bytes of all visible batches in memory (some kilobytes for an image of 32x32
    pixels, some hundred for one of 224x224).

    Batches become visible by `show`, also in the worker processes of a data loader. Do it before the loader begins
    with an epoch: loaders read ahead.

    Args:
        shards: Where the batches are.
        length: How many rows an epoch has.
        transform: Makes of images and labels what the model takes.
        seed: Seed of the order.

    Raises:
        ValueError: If `length` is not positive, or there is no batch yet.
    """

    def __init__(self, shards: ImageShards, length: int, transform: ImageTransform, *, seed: int) -> None:
        self.shards, self.transform = shards, transform
        self.length, self.seed = whole_number("length", length, least=1), whole_number("seed", seed, least=0)
        #: The columns of the files, by which a trainer checks the number of classes.
        self.features = shards.features
        # Shared with workers that live longer than an epoch.
        self._visible = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._tables: list[pa.Table] = []
        self._order: tuple[int, np.ndarray, np.ndarray] | None = None
        self.show(shards.count())

    @property
    def visible(self) -> int:
        """How many batches are read."""
        return int(self._visible.item())

    def show(self, batches: int) -> None:
        """Read the first so many batches from now on.

        Raises:
            ValueError: If they are not there.
        """
        missing = [index for index in range(batches) if not self.shards.has(index)]
        if missing or batches < 1:
            raise ValueError(
                f"{batches} batches of {self.shards.folder} are to be read, and of those are missing: {missing[:5]}"
            )
        self._visible.fill_(batches)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.length:
            raise IndexError(f"row {index} of {self.length}")
        order, starts = self._current_order()
        row = int(order[index])
        batch = int(np.searchsorted(starts, row, side="right")) - 1
        table, inside = self._tables[batch], row - int(starts[batch])
        image = image_of(table.column("image")[inside].as_py())
        rows = self.transform({"image": [image], "label": [table.column("label")[inside].as_py()]})
        return {name: values[0] for name, values in rows.items()}

    def _current_order(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the row at each index, and the first row of each batch."""
        visible = self.visible
        if self._order is None or self._order[0] != visible:
            # The last of them may have been made anew since it was read.
            keep = min(len(self._tables), visible) if self._order is None or self._order[0] < visible else 0
            del self._tables[keep:]
            for index in range(keep, visible):
                self._tables.append(pq.read_table(self.shards.file(index), columns=["image", "label"], memory_map=True))
            starts = np.cumsum([0, *(table.num_rows for table in self._tables)])
            generator = np.random.default_rng([self.seed, visible])
            rounds = -(-self.length // int(starts[-1]))
            order = np.concatenate([generator.permutation(starts[-1]) for _ in range(rounds)])[: self.length]
            self._order = visible, order, starts[:-1]
        return self._order[1:]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(self.length))

    def __getstate__(self) -> dict[str, Any]:
        # A worker opens the files itself.
        return {**self.__dict__, "_tables": [], "_order": None}
