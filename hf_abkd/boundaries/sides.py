"""Sides of activation boundaries: which responses are above 0, and responses mirrored by them, fast on a CPU too."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Elements that are handled at a time on a CPU: what is made in between then stays in its cache.
PART = 2**18
# Squares that are added up in one go. Each of the few lanes of a processor adds its own one after the other, and of
# 2^18 that are alike float32 would lose a part in 2,000.
_SUMMED = 2**10


def parts(tensor: Tensor, units: int) -> tuple[Tensor, ...]:
    """Return views of a few samples each of a tensor (N, ...), as many as have `PART` units, of `units` per sample."""
    samples = len(tensor)
    if tensor.is_cpu and not torch.compiler.is_compiling():
        samples = min(samples, PART // max(units, 1))
    return torch.split(tensor, max(samples, 1))


def above_zero(responses: Tensor) -> Tensor:
    """Return True where a response is above 0, in the memory format of the responses; of a NaN it is False.

    Shapes: responses (N, ...), floating or bool; returns the same, bool, always a new tensor.
    """
    if not responses.is_cpu or responses.dtype == torch.bool or torch.compiler.is_compiling() or responses.ndim == 0:
        return responses > 0
    on = torch.empty_like(responses, dtype=torch.bool)
    units = math.prod(responses.shape[1:])
    for part, sides in zip(parts(responses.detach(), units), parts(on, units), strict=True):
        # Three times as fast as a comparison that writes bools, which is not vectorised.
        sides.copy_(torch.gt(part, 0, out=torch.empty_like(part)))
    return on


def mirrored(values: Tensor, sides: Tensor, out: Tensor | None = None) -> Tensor:
    """Return the values with the other sign where a side is not above 0; `out` may be `values`."""
    # This derivative of the leaky ReLU is the one operation that does so in one pass and without a mask in memory.
    result: Tensor
    if out is None:
        result = torch.ops.aten.leaky_relu_backward(values, sides, -1.0, False)
    else:
        result = torch.ops.aten.leaky_relu_backward.grad_input(values, sides, -1.0, False, grad_input=out)
    return result


def sum_of_squares(dense: Tensor) -> Tensor:
    """Return the sum over all elements of a tensor without gaps in memory, shape (), without a temporary of its size.

    To a few units of the last place of its type, however many there are.
    """
    if not dense.is_cpu:
        norm: Tensor = torch.linalg.vector_norm(dense)
        return norm.square()
    flat = dense.as_strided((dense.numel(),), (1,))
    whole = len(flat) // _SUMMED * _SUMMED
    # The norms of rows are as fast as one dot product, and are added up pairwise.
    rows, rest = flat[:whole].view(-1, _SUMMED), flat[whole:]
    total: Tensor = torch.linalg.vector_norm(rows, dim=1).square().sum() + torch.dot(rest, rest)
    return total
