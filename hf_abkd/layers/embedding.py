"""Embedding: responses as one vector of a given width, mapped linearly."""

from __future__ import annotations

import math

from torch import Tensor, nn

from hf_abkd.layers.connection import Side
from hf_abkd.layers.connectors import AsMap


class Embedding(nn.Module):
    """A linear map of the responses of a sample, averaged over the image where they lie on a grid: to (N, D).

    Args:
        side: The responses.
        features: The width D.
    """

    def __init__(self, side: Side, features: int) -> None:
        super().__init__()
        layout = side.layout_or_plain
        self.as_map: nn.Module | None = AsMap(layout) if layout.grid is not None else None
        # Without a grid every place is a feature of its own.
        width = side.shape[layout.channel_dim] if self.as_map is not None else math.prod(side.shape[1:])
        self.linear = nn.Linear(width, features)

    def forward(self, tensor: Tensor) -> Tensor:
        """Return vectors, (N, D)."""
        pooled = tensor.flatten(1) if self.as_map is None else self.as_map(tensor).mean((2, 3))
        vectors: Tensor = self.linear(pooled)
        return vectors
