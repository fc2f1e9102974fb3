"""How tensors of a teacher are encoded in the columns of a table, decoded for terms, and compared with what is stored.

The only place that knows how bits, float16, logits and the largest logits look as tensors. How their arrays lie in
files is told by `hf_abkd.data.table.columns.Column`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_abkd.boundaries.packing import pack_signs, unpack_signs
from hf_abkd.data.table.columns import Column

# Float16 has 11 significant bits.
_HALF_ROUNDING = 2.0**-10
_LARGEST_HALF = 65504.0


def encode(said: Tensor, column: Column) -> Any:
    """Return what a teacher says, (N, ...), as the table holds it: arrays on the CPU.

    Raises:
        ValueError: If it reaches beyond float16.
    """
    if column.kind == "bits":
        return pack_signs(said).cpu().numpy()
    if column.kind == "topk":
        return largest_logits(said, column.shape[0])
    largest = float(said.abs().max())
    if not largest <= _LARGEST_HALF:
        raise ValueError(
            f"{column.name} of the teacher reaches {largest:.3g}, and float16, in which it is stored, "
            f"{_LARGEST_HALF:g}. "
            "Compare its boundaries, which have one bit, or another layer"
        )
    return said.half().cpu().numpy()


def largest_logits(logits: Tensor, count: int) -> dict[str, np.ndarray]:
    """Return the largest logits, (N, count), which classes they are, and the logsumexp of the others, (N,)."""
    values, indices = logits.float().topk(count, dim=1)
    rest = logits.float().scatter(1, indices, -math.inf).logsumexp(1)
    return {
        "values": values.half().cpu().numpy(),
        "indices": indices.int().cpu().numpy(),
        "rest": rest.cpu().numpy(),
    }


def as_tensors(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return arrays, or mappings of them, as tensors that share their memory."""
    return {
        name: as_tensors(array) if isinstance(array, Mapping) else torch.from_numpy(array)
        for name, array in arrays.items()
    }


def decode(stored: Any, column: Column) -> Tensor:
    """Return stored tensors as terms compare with them.

    Boundaries stay packed, (N, bytes) uint8. All others are float32; of the logits that top-k left out, each has an
    even share of their probability.
    """
    if column.kind == "bits":
        bits: Tensor = stored
        return bits
    if column.kind != "topk":
        values: Tensor = stored
        return values.float()
    left_out = column.shape[1] - column.shape[0]
    rest = stored["rest"][:, None] - math.log(max(left_out, 1))
    logits: Tensor = rest.repeat(1, column.shape[1]).scatter(1, stored["indices"].long(), stored["values"].float())
    return logits


def example(column: Column, count: int) -> Tensor:
    """Return what a target of a layer looks like for so many images: its shape, with nothing in it."""
    return torch.zeros(count, *column.shape, dtype=torch.bool if column.kind == "bits" else torch.float32)


@dataclass(frozen=True)
class Distance:
    """How far what is stored lies from what a teacher says, element by element.

    Args:
        values: The distances, in units of the spread of what the teacher says. Of a bit on the other side of its
            boundary it is the teacher's response; of all other bits 0.
        rounding: How far storing alone may move each, in the same units.
        moved: How many bits are on the other side.
    """

    values: Tensor
    rounding: Tensor
    moved: int


def compare(said: Tensor, stored: Any, column: Column) -> Distance:
    """Compare what a teacher says, (N, ...) on the CPU, with what is stored of it, as tensors."""
    spread = float(said.float().std()) or 1.0
    if column.kind == "bits":
        other_side = (said > 0) != unpack_signs(stored, column.shape)
        values = torch.where(other_side, said.float().abs(), 0.0) / spread
        return Distance(values, torch.zeros_like(values), int(other_side.sum()))
    live, kept = _largest_and_rest(said.float(), stored) if column.kind == "topk" else (said.float(), stored.float())
    values = ((live - kept).abs() / spread).nan_to_num(nan=math.inf)
    return Distance(values, live.abs() * _HALF_ROUNDING / spread, 0)


def _largest_and_rest(said: Tensor, stored: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return side by side the largest logits, those of the stored classes, and the logsumexp of the others."""
    values, indices = stored["values"].float(), stored["indices"].long()
    largest, classes = said.topk(values.shape[1], dim=1).values, said.shape[1]
    # Of logits that are nearly equal either may come first, so the stored classes are looked up.
    inside = indices.clamp(0, classes - 1)
    there = said.gather(1, inside).where((indices >= 0) & (indices < classes), math.nan)
    rest = said.scatter(1, inside, -math.inf).logsumexp(1)
    return torch.cat([largest, there, rest[:, None]], 1), torch.cat([values, values, stored["rest"][:, None]], 1)
