"""Finding out how tensors lie: from the layers that ran before, where they put their channels, and their grids."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from hf_abkd.layers.layout import Layout, Order
from hf_abkd.layers.module_kinds import channel_dim

# More leading tokens than any published model has; beyond it a number of tokens and a grid have nothing in common.
_MOST_SPECIAL_TOKENS = 32


@dataclass
class _Output:
    """What a convolution, linear layer or normalisation gave."""

    tensor: Tensor
    channels: int
    dim: int

    def channels_in(self, value: Tensor) -> int | None:
        """Return the dimension that steps like the channels, in a view or what was computed element by element."""
        stride = self.tensor.stride(self.dim)
        same = [
            dim for dim in range(1, value.ndim) if value.shape[dim] == self.channels and value.stride(dim) == stride
        ]
        return same[0] if len(same) == 1 else None


@dataclass
class LayoutFinder:
    """Tells how tensors lie, from what it was shown of the forward pass before them.

    Args:
        shape: The shape of the images, (N, C, H, W).
    """

    shape: tuple[int, ...]
    outputs: list[_Output] = field(default_factory=list)
    grids: list[tuple[int, int]] = field(default_factory=list)

    def see_output(self, module: nn.Module, value: Tensor) -> None:
        """Remember where a module has put its channels, if it is one of those that say."""
        dim = channel_dim(module, value)
        if dim is not None:
            self.outputs.append(_Output(value, value.shape[dim], dim))

    def see_grid(self, grid: tuple[int, int]) -> None:
        """Remember the grid of a map that covers the image."""
        self.grids.append(grid)

    def layout(self, value: Tensor) -> Layout | None:
        """Return how a tensor lies; None if it is no batch of positions or vectors."""
        if value.ndim not in (2, 3, 4) or value.shape[0] != self.shape[0]:
            return None
        if value.ndim == 2:
            return Layout("NC")
        dim = self._channels_of(value)
        if value.ndim == 4:
            first, last = (value.shape[2], value.shape[3]), (value.shape[1], value.shape[2])
            return Layout("NHWC", last) if dim == 3 else Layout("NCHW", first)
        order: Order = "NCL" if dim == 1 else "NLC"
        token_grid = self._token_grid(value.shape[2 if dim == 1 else 1])
        if token_grid is None:
            return Layout(order)
        special, grid = token_grid
        self.grids.append(grid)
        return Layout(order, grid, special)

    def _channels_of(self, value: Tensor) -> int:
        """Return the dimension of the channels: where the layer before has put them."""
        memory = value.untyped_storage().data_ptr()
        for output in reversed(self.outputs):
            if output.tensor.untyped_storage().data_ptr() == memory and (dim := output.channels_in(value)) is not None:
                return dim
        # A sum or a transposed copy has memory of its own; the layer before has the same number of channels.
        for output in reversed(self.outputs):
            first, last = value.shape[1] == output.channels, value.shape[-1] == output.channels
            if output.tensor.ndim == value.ndim and (first or last):
                if first and last:
                    dim = output.channels_in(value)
                    return output.dim if dim is None else dim
                return 1 if first else value.ndim - 1
        for output in reversed(self.outputs):
            if value.shape[-1] == output.channels:
                return value.ndim - 1
        return 1 if value.ndim == 4 else 2

    def _token_grid(self, tokens: int) -> tuple[int, tuple[int, int]] | None:
        """Return the number of special tokens and the grid of the others, from the grids seen so far."""
        seen = list(dict.fromkeys(reversed(self.grids)))
        # Merging of patches halves the last grid.
        halves = [((grid[0] + 1) // 2, (grid[1] + 1) // 2) for grid in seen[:1]]
        # Patches made without a convolution are squares that leave nothing out.
        sizes = () if seen else range(1, min(self.shape[2:]) + 1)
        height, width = self.shape[2:]
        patches = [(height // size, width // size) for size in sizes if height % size == width % size == 0]
        fits = {
            tokens - math.prod(grid): grid
            for grid in reversed([*seen, *halves, *patches])
            if 0 <= tokens - math.prod(grid) <= min(_MOST_SPECIAL_TOKENS, math.prod(grid))
        }
        return (min(fits), fits[min(fits)]) if fits else None


def covers(grid: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether a grid has the proportions of the images, up to one row."""
    height, width = shape[2], shape[3]
    if grid[0] > height or grid[1] > width:
        return False
    return abs(grid[0] - grid[1] * height / width) <= 1 or abs(grid[1] - grid[0] * width / height) <= 1
