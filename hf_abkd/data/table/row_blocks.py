"""Blocks of rows: batches as they come are checked and cut into blocks of one size, as the shards hold them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hf_abkd.data.table.columns import ROW_NAMES, Column, table_fields
from hf_abkd.data.table.shards import Shard

# Of one block, which is what a writer holds in memory and a streaming reader loads at once.
_BLOCK_BYTES = 16 * 2**20


class RowBlocks:
    """Makes blocks of the rows of a table.

    Args:
        columns: The columns of the table.
        views: How many views of each sample there are.
    """

    def __init__(self, columns: Sequence[Column], views: int) -> None:
        self.columns = tuple(columns)
        self.views = views
        self.fields = table_fields(columns)
        self.sample_bytes = views * sum(field.row_bytes for field in self.fields)

    def cut(self, shard: Shard, batches: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, np.ndarray]]:
        """Yield the rows of a shard in blocks of one size, whatever the batches are: a shard is always the same.

        The arrays are used again for the next block.

        Raises:
            ValueError: If a batch is not of this table, or these are not the rows of the shard; see
                `hf_abkd.data.table.table_writer.TableWriter.write`.
        """
        total, done, filled = (shard.stop - shard.start) * self.views, 0, 0
        size = min(total, self.views * max(1, _BLOCK_BYTES // self.sample_bytes))
        block = {field.name: np.empty((size, *field.shape), field.dtype) for field in self.fields}
        for batch in batches:
            arrays = self._arrays(batch)
            rows = len(arrays["sample_id"])
            if done + filled + rows > total:
                raise ValueError(f"shard {shard.index} has {total} rows, and more were given")
            taken = 0
            while taken < rows:
                part = min(rows - taken, size - filled)
                for name, array in arrays.items():
                    block[name][filled : filled + part] = array[taken : taken + part]
                taken, filled = taken + part, filled + part
                if filled == size or done + filled == total:
                    ready = {name: array[:filled] for name, array in block.items()}
                    self._check(ready, shard.start * self.views + done)
                    yield ready
                    done, filled = done + filled, 0
        if done < total:
            raise ValueError(f"shard {shard.index} has {total} rows, and {done + filled} were given")

    def _arrays(self, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Return the arrays of a batch as they are stored, by the names of the fields."""
        names = {*ROW_NAMES, *(column.name for column in self.columns)}
        if set(batch) != names:
            raise ValueError(
                f"a batch must have {sorted(names)}: missing {sorted(names - set(batch))}, "
                f"unknown {sorted(set(batch) - names)}"
            )
        arrays: dict[str, Any] = {name: batch[name] for name in ROW_NAMES}
        for column in self.columns:
            arrays |= column.divide(batch[column.name])
        rows = len(arrays["sample_id"])
        for field in self.fields:
            array = arrays[field.name]
            expected = (rows, *(field.shape if field.row_shape is None else field.row_shape))
            if not isinstance(array, np.ndarray) or array.dtype != field.dtype or array.shape != expected:
                given = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
                raise ValueError(f"{field.name!r} must be an array {field.dtype} {expected}, got {given}")
            arrays[field.name] = array.reshape(rows, *field.shape)
        return arrays

    def _check(self, block: Mapping[str, np.ndarray], first_row: int) -> None:
        """Check what arrays of the right kind can still have wrong; a block begins with the first view of a sample."""
        ids, views = (block[name].reshape(-1, self.views) for name in ("sample_id", "view"))
        in_order = (views == np.arange(self.views)).reshape(-1)
        _refuse(~in_order, first_row, f"the views of a sample are not in the order 0 to {self.views - 1}")
        _refuse((ids != ids[:, :1]).reshape(-1), first_row, "the views of a sample differ in sample_id")
        for column in self.columns:
            for wrong, mistake in column.mistakes(block):
                _refuse(wrong, first_row, mistake)


def _refuse(wrong: np.ndarray, first_row: int, mistake: str) -> None:
    if wrong.any():
        row = int(wrong.reshape(len(wrong), -1).any(1).argmax())
        raise ValueError(f"row {first_row + row}: {mistake}")
