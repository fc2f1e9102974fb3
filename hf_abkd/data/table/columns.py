"""Columns: what a table holds of each row, and the arrays that a column is stored in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

#: What every row has beside the columns: which image it is of, which view of it, and a hash of the prepared pixels.
ROW_NAMES = ("sample_id", "view", "pixels")
_TOPK_PARTS = ("values", "indices", "rest")
_INFINITY = 0x7C00  # the exponent of a float16 that is infinite or not a number

Kind = Literal["bits", "float16", "logits", "topk", "uint8", "int64"]


@dataclass(frozen=True)
class Field:
    """One array of a table as its files hold it.

    Args:
        name: What it is called there.
        dtype: The type of its elements. An array of uint8 is stored as binary.
        shape: The shape of a row on disk, which has at most one dimension.
        row_shape: The shape in which a row is given and read; None for that on disk.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...] = ()
    row_shape: tuple[int, ...] | None = None

    @property
    def row_bytes(self) -> int:
        """How many bytes a row takes."""
        return self.dtype.itemsize * math.prod(self.shape)

    def as_given(self, rows: np.ndarray) -> np.ndarray:
        """Return rows as they lie on disk, (n, *shape), in the shape in which they were given."""
        return rows if self.row_shape is None else rows.reshape(len(rows), *self.row_shape)


@dataclass(frozen=True)
class Column:
    """One thing that is stored of each image, as a target of the teacher.

    A row of it is, on disk and as `TargetTable.read` returns it:

    - "bits": one bit for each element of `shape`, in its order, eight to a byte with the first in the lowest bit
      (`numpy.packbits(..., bitorder="little")`); the bits that fill the last byte are 0.
    - "float16": an array of `shape`.
    - "logits": K values in float16, `shape` (K,).
    - "topk": of K logits the k largest, `shape` (k, K): `values` (k float16), `indices` (k int32) and `rest`, the
      logsumexp of those that were left out (float32; minus infinity if none were).
    - "uint8", "int64": an array of `shape`.

    Raises:
        ValueError: If the name is empty or reserved, the kind unknown, or the shape not one of that kind.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check name, kind and shape."""
        object.__setattr__(self, "shape", tuple(self.shape))
        if not isinstance(self.name, str) or not self.name or self.name in ROW_NAMES:
            raise ValueError(f"a column needs a name other than {list(ROW_NAMES)}, got {self.name!r}")
        if self.kind not in get_args(Kind):
            raise ValueError(f"column {self.name!r}: kind must be one of {list(get_args(Kind))}, got {self.kind!r}")
        dimensions = {"logits": 1, "topk": 2}.get(self.kind, len(self.shape))
        whole = all(type(size) is int and size > 0 for size in self.shape)
        if not self.shape or not whole or len(self.shape) != dimensions:
            raise ValueError(
                f"column {self.name!r} of kind {self.kind!r}: shape must be "
                f"{ {'logits': '(K,)', 'topk': '(k, K)'}.get(self.kind, 'that of a row, without the batch') } in "
                f"positive whole numbers, got {self.shape}"
            )
        if self.kind == "topk" and self.shape[0] > self.shape[1]:
            raise ValueError(f"column {self.name!r}: there are no {self.shape[0]} largest of {self.shape[1]} logits")

    @property
    def fields(self) -> list[Field]:
        """The arrays that it is stored in."""
        half = np.dtype("<f2")
        if self.kind == "bits":
            return [Field(self.name, np.dtype("u1"), (-(-math.prod(self.shape) // 8),))]
        if self.kind == "topk":
            k = self.shape[:1]
            values, indices, rest = (f"{self.name}.{part}" for part in _TOPK_PARTS)
            return [Field(values, half, k), Field(indices, np.dtype("<i4"), k), Field(rest, np.dtype("<f4"))]
        arrays: dict[str, np.dtype[Any]] = {"uint8": np.dtype("u1"), "int64": np.dtype("<i8")}
        return [Field(self.name, arrays.get(self.kind, half), (math.prod(self.shape),), self.shape)]

    @property
    def row_bytes(self) -> int:
        """How many bytes a row takes."""
        return sum(field.row_bytes for field in self.fields)

    @property
    def shape_text(self) -> str:
        """Its shape in words, for the card."""
        if self.kind == "topk":
            return f"{self.shape[0]} of {self.shape[1]}"
        return f"({', '.join(map(str, self.shape))}{',' if len(self.shape) == 1 else ''})"

    def divide(self, rows: Any) -> dict[str, Any]:
        """Return the arrays of some rows by the names of their fields.

        Raises:
            ValueError: If rows of several arrays are no mapping of just these.
        """
        if self.kind != "topk":
            return {self.name: rows}
        if not isinstance(rows, Mapping) or set(rows) != set(_TOPK_PARTS):
            raise ValueError(f"{self.name!r} of kind 'topk' is a dict of values, indices and rest")
        return {f"{self.name}.{part}": array for part, array in rows.items()}

    def unite(self, arrays: Mapping[str, np.ndarray]) -> Any:
        """Return rows from their arrays by the names of the fields; the inverse of `divide`."""
        if self.kind != "topk":
            return arrays[self.name]
        return {part: arrays[f"{self.name}.{part}"] for part in _TOPK_PARTS}

    def mistakes(self, arrays: Mapping[str, np.ndarray]) -> Iterator[tuple[np.ndarray, str]]:
        """Yield what arrays of the right type and shape can still have wrong: where, (n, ...) bool, and what."""
        for field in self.fields:
            if field.dtype == np.float16:
                wrong = (arrays[field.name].view(np.uint16) & _INFINITY) == _INFINITY
                yield wrong, f"{field.name!r} is not finite in float16, which ends at 65504"
        if self.kind == "bits" and (used := math.prod(self.shape) % 8):
            wrong = arrays[self.name][:, -1] >> used != 0
            yield wrong, f"{self.name!r} has bits set after its {self.shape} bits"
        if self.kind == "topk":
            indices, rest = arrays[f"{self.name}.indices"], arrays[f"{self.name}.rest"]
            outside = (indices < 0) | (indices >= self.shape[1])
            yield outside, f"'{self.name}.indices' is not from 0 to {self.shape[1] - 1}"
            yield ~(rest < math.inf), f"'{self.name}.rest' is not a number, or infinite"


def row_fields() -> list[Field]:
    """Return the arrays that every table has, those of `ROW_NAMES`."""
    types: dict[str, np.dtype[Any]] = {"sample_id": np.dtype("<i8"), "view": np.dtype("<i4"), "pixels": np.dtype("<i8")}
    return [Field(name, types[name]) for name in ROW_NAMES]


def table_fields(columns: Sequence[Column]) -> list[Field]:
    """Return all arrays of a table with these columns, in the order of its files.

    Raises:
        ValueError: If there are no columns, or two arrays would have one name.
    """
    fields = [*row_fields(), *(field for column in columns for field in column.fields)]
    names = [field.name for field in fields]
    if not columns or len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(
            f"a table needs columns of different names, got {twice} twice" if twice else "no columns given"
        )
    return fields
