"""Pearson's correlation, as several objectives take it."""

from __future__ import annotations

import torch
from torch import Tensor

# As in the published code of DIST. It also bounds the gradient where next to nothing is left of a spread.
_EPSILON = 1e-8


def correlation(first: Tensor, second: Tensor, dim: int) -> Tensor:
    """Return the correlation of two tensors along a dimension, which the result lacks; 0 where one has no spread."""
    one, other = (tensor - tensor.mean(dim, keepdim=True) for tensor in (first, second))
    sizes = torch.linalg.vector_norm(one, dim=dim) * torch.linalg.vector_norm(other, dim=dim)
    found: Tensor = (one * other).sum(dim) / (sizes + _EPSILON)
    return found
