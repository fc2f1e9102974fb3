"""Sums that are not finite where a value is not: one pass over a tensor, and nothing waits for the device."""

from __future__ import annotations

import torch
from torch import Tensor


def row_sums(tensor: Tensor) -> Tensor:
    """Return the sum of each row of a floating tensor (N, ...), shape (N,), float32, detached."""
    dimensions = tuple(range(1, tensor.ndim))
    rows = tensor.detach()
    # float32: half precision would overflow where every value is finite.
    return rows.sum(dimensions, dtype=torch.float32) if dimensions else rows.float()


def sums(tensors: list[Tensor]) -> Tensor:
    """Return the sum of each of T floating tensors, shape (T,), float32, detached."""
    return torch.stack([tensor.detach().sum(dtype=torch.float32) for tensor in tensors])
