"""Sides of activation boundaries as packed bits: what a boundary objective needs of a teacher, 1/32 of its float32."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hf_abkd.boundaries.sides import above_zero

# Multiplied by this, a word of eight bytes that are 0 or 1 holds the eight bits, lowest byte first, in its top byte.
_GATHER = 0x0102040810204080
# Row i holds the eight bits of i, lowest first, one byte each, as one word.
_SPREAD = torch.arange(256, device="cpu").unsqueeze(1) >> torch.arange(8, device="cpu") & 1
_SPREAD = _SPREAD.bool().view(torch.int64).flatten()


def pack_signs(responses: Tensor) -> Tensor:
    """Return one bit per response: 1 where it is above 0, and 0 where it is 0 or below.

    Response i of a sample, counted in C order whatever the memory format, is bit `i % 8` of byte `i // 8`, counted
    from the lowest bit; the bits past the last response are 0. A NaN is not above 0: its bit is 0, without an error,
    since looking for NaNs would cost a pass over the responses and a wait for the device.

    Shapes: responses (N, ...), floating or bool, of n elements per sample; returns (N, ceil(n / 8)), uint8.

    Raises:
        TypeError: If the responses are neither floating nor bool.
    """
    if not responses.is_floating_point() and responses.dtype != torch.bool:
        raise TypeError(
            f"pack_signs takes responses, floating or bool, and got {responses.dtype}; "
            "packed signs are uint8: do not pack them again"
        )
    # Compared before it is brought to C order, so that a copy is one of bytes; always a new tensor, changed below.
    on = above_zero(responses).unsqueeze(-1).flatten(1)
    if on.shape[1] % 8:
        on = torch.nn.functional.pad(on, (0, -on.shape[1] % 8))
    words = on.view(len(on), on.shape[1] // 8, 8).view(torch.int64)
    words.mul_(_GATHER)
    return words.view(torch.uint8)[..., 7].contiguous()


def unpack_signs(packed: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the sides that `pack_signs` has packed.

    Shapes: packed (N, ceil(n / 8)), uint8; returns (N, *shape), bool, True where the unit is on.

    Args:
        packed: What `pack_signs` returned.
        shape: The shape of one sample, of n elements.

    Raises:
        TypeError: If `packed` is not uint8.
        ValueError: If `packed` is not of that many units per sample.
    """
    units = math.prod(shape)
    _check(packed, shape)
    if packed.is_cpu and not torch.compiler.is_compiling():
        # Several times faster than shifts, which a compiler fuses into what reads the bits.
        on = _SPREAD.index_select(0, packed.flatten().int()).view(torch.bool)
    else:
        on = (packed.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8, device=packed.device)).bitwise_and(1).bool()
    return on.view(len(packed), 8 * packed.shape[1])[:, :units].contiguous().view(len(packed), *shape)


def unpack_units(packed: Tensor, shape: Sequence[int], units: Tensor, dim: int) -> Tensor:
    """Return the sides of some units that `pack_signs` has packed; the bits of the others are not touched.

    Shapes: packed (N, ceil(n / 8)), uint8; units (U,), int64; returns (N, *shape) with U in the place of the size of
        `dim`, bool, True where the unit is on.

    Args:
        packed: What `pack_signs` returned.
        shape: The shape of one sample, of n elements.
        units: The places of the units in their dimension.
        dim: Their dimension, counted with that of the samples, which is 0.

    Raises:
        TypeError: If `packed` is not uint8.
        ValueError: If `packed` is not of that many units per sample.
    """
    _check(packed, shape)
    before, after = math.prod(shape[: dim - 1]), math.prod(shape[dim:])
    outer, inner = (torch.arange(count, device=packed.device) for count in (before, after))
    bits = ((outer[:, None, None] * shape[dim - 1] + units[:, None]) * after + inner).flatten()
    # Several times faster than an index: the same places are read of every sample.
    chosen = packed.gather(1, (bits >> 3).expand(len(packed), -1))
    on = (chosen >> (bits & 7).to(torch.uint8)).bitwise_and_(1).view(torch.bool)
    return on.view(len(packed), *shape[: dim - 1], len(units), *shape[dim:])


def _check(packed: Tensor, shape: Sequence[int]) -> None:
    """Refuse what is no packed signs of samples of a shape."""
    units = math.prod(shape)
    if packed.dtype != torch.uint8:
        raise TypeError(f"packed signs are what pack_signs returns, uint8, and got {packed.dtype}")
    if packed.ndim != 2 or packed.shape[1] != (units + 7) // 8:
        raise ValueError(
            f"packed signs of shape {tuple(packed.shape)} do not fit samples of shape {tuple(shape)}: {units} units "
            f"are (N, {(units + 7) // 8}) bytes. Give the shape of the responses that were packed."
        )
