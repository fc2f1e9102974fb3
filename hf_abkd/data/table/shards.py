"""Shards: the files of a table, in the stream format of Arrow, which `datasets` reads and which are memory-mapped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Features, List, Value

from hf_abkd.data.table.columns import Field


@dataclass(frozen=True)
class Shard:
    """A part of the table that is written at once: the samples from `start` to before `stop`."""

    index: int
    start: int
    stop: int
    done: bool


def shard_name(shard: int, shards: int) -> str:
    """Return the name of a shard's file, relative to the folder of the table."""
    return f"data/train-{shard:05d}-of-{shards:05d}.arrow"


def write_blocks(path: Path, blocks: Iterable[Mapping[str, np.ndarray]], fields: Sequence[Field]) -> None:
    """Write a new file of blocks of rows, each of which becomes a record batch."""
    schema = _schema(tuple(fields))
    with path.open("xb") as file, pa.ipc.new_stream(file, schema) as stream:
        for block in blocks:
            stream.write_batch(_record_batch(block, fields, schema))


def map_blocks(path: Path, fields: Sequence[Field], rows: int) -> list[dict[str, np.ndarray]]:
    """Return the blocks of rows of a shard as arrays (n, *shape) over the file's memory map.

    Raises:
        ValueError: If it is not whole: no Arrow file, other columns, another number of rows.
    """
    blocks = []
    try:
        # The maps stay while there are arrays over them; the file, of which a process has few, is closed.
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
            if not stream.schema.equals(_schema(tuple(fields))):
                raise ValueError(f"its columns are {stream.schema.names}, not {[field.name for field in fields]}")
            for batch in stream:
                columns = zip(fields, batch.columns, strict=True)
                blocks.append({field.name: _mapped(field, column) for field, column in columns})
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if (held := sum(len(block["sample_id"]) for block in blocks)) != rows:
        raise ValueError(f"{path} is damaged: it has {held:,} rows and should have {rows:,}")
    return blocks


# Each shard of a table asks for it again, and making it takes longer than mapping the shard.
@lru_cache(maxsize=16)
def _schema(fields: tuple[Field, ...]) -> pa.Schema:
    return Features({field.name: _feature(field) for field in fields}).arrow_schema


def _feature(field: Field) -> Any:
    if field.dtype == np.uint8:
        return Value("binary")
    return List(Value(field.dtype.name), length=field.shape[0]) if field.shape else Value(field.dtype.name)


def _record_batch(block: Mapping[str, np.ndarray], fields: Sequence[Field], schema: pa.Schema) -> pa.RecordBatch:
    """Return the Arrow form of arrays, which shares their memory."""
    arrays = []
    for field in fields:
        values = block[field.name]
        if field.dtype == np.uint8:
            offsets = np.arange(len(values) + 1, dtype=np.int32) * field.shape[0]
            buffers = [None, pa.py_buffer(offsets), pa.py_buffer(values)]
            arrays.append(pa.Array.from_buffers(pa.binary(), len(values), buffers))
        elif field.shape:
            flat = pa.array(values.reshape(-1))
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=schema.field(field.name).type))
        else:
            arrays.append(pa.array(values))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _mapped(field: Field, column: pa.Array) -> np.ndarray:
    buffers, rows = column.buffers(), len(column)
    if field.dtype == np.uint8:
        offsets = np.frombuffer(buffers[1], np.int32, rows + 1)
        if (offsets[0], offsets[-1]) != (0, rows * field.shape[0]):
            raise ValueError(f"the rows of {field.name!r} are not of {field.shape[0]} bytes")
    if column.null_count:
        raise ValueError(f"{field.name!r} lacks values")
    # frombuffer refuses a buffer that is too short.
    return np.frombuffer(buffers[-1], field.dtype, rows * math.prod(field.shape)).reshape(rows, *field.shape)
