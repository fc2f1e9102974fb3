"""Layouts: where in a tensor of responses the channels lie, and which cell of the image each position sees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hf_abkd.wording import by

Order = Literal["NCHW", "NHWC", "NLC", "NCL", "NC"]
ORDERS: tuple[Order, ...] = ("NCHW", "NHWC", "NLC", "NCL", "NC")


@dataclass(frozen=True)
class Layout:
    """How a tensor of responses lies.

    Args:
        order: The meaning of its dimensions: N samples, C channels, H rows and W columns of a map, L tokens.
        grid: Rows and columns of the grid that its positions form over the image; None if they form none.
        special_tokens: How many of the first tokens stand for no position (class token, registers).
        positions: For every position of the grid, row by row, the token that sees it, counted without the special
            ones; None if they lie row by row already.

    Raises:
        ValueError: If an order is unknown, or something is given that it does not have.

    Example:
        >>> Layout("NLC", grid=(14, 14), special_tokens=1).describe()
        'NLC, 1 special'
    """

    order: Order
    grid: tuple[int, int] | None = None
    special_tokens: int = 0
    positions: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Check that the parts go together."""
        if self.order not in ORDERS:
            raise ValueError(f"layout must be one of {list(ORDERS)}, got {self.order!r}")
        if self.grid is not None and self.order == "NC":
            raise ValueError(f"NC are vectors, which lie on no grid; got the grid {self.grid}")
        if self.grid is not None and (len(self.grid) != 2 or min(self.grid) < 1):
            raise ValueError(f"grid must be (rows, columns), both at least 1; got {self.grid}")
        if self.special_tokens < 0 or (self.special_tokens and not self.has_tokens):
            raise ValueError(
                f"special_tokens must be 0, or more for NLC and NCL; got {self.special_tokens} {self.order}"
            )
        if self.positions is not None:
            cells = 0 if self.grid is None else math.prod(self.grid)
            if not self.has_tokens or sorted(self.positions) != list(range(cells)):
                raise ValueError(f"positions must name each token of the grid once, from 0 to {cells - 1}")

    @property
    def has_tokens(self) -> bool:
        """Whether its positions lie in one dimension."""
        return self.order in ("NLC", "NCL")

    @property
    def channel_dim(self) -> int:
        """The dimension of the channels."""
        return self.order.index("C")

    def completed(self, other: Layout | None) -> Layout:
        """Return this layout with what it leaves open, the grid and the order of the tokens, taken from another one."""
        if other is None or other.order != self.order or self.grid not in (None, other.grid):
            return self
        left_open = self.grid is None and self.special_tokens == 0
        return other if left_open or self.special_tokens == other.special_tokens else self

    def describe(self) -> str:
        """Return the layout in a few words, for tables."""
        special = f", {self.special_tokens} special" if self.special_tokens else ""
        return f"{self.order}{special}{', reordered' if self.positions else ''}"


def plain_layout(shape: Sequence[int]) -> Layout:
    """Return what a shape alone suggests: (N, C, H, W), (N, L, C) or (N, C).

    Raises:
        ValueError: If it has another number of dimensions.
    """
    if len(shape) == 4:
        return Layout("NCHW", (shape[2], shape[3]))
    if len(shape) in (2, 3):
        return Layout("NLC" if len(shape) == 3 else "NC")
    raise ValueError(f"a tensor of shape {tuple(shape)} is no batch of maps (N, C, H, W), tokens (N, L, C) or vectors")


def check_layout(layout: Layout, shape: Sequence[int]) -> None:
    """Check that a tensor can lie like this.

    Raises:
        ValueError: If its shape says otherwise.
    """
    problem = ""
    if len(layout.order) != len(shape):
        problem = f"has {len(shape)} dimensions"
    elif layout.grid is not None and layout.has_tokens:
        tokens, expected = shape[layout.order.index("L")], math.prod(layout.grid) + layout.special_tokens
        problem = "" if tokens == expected else f"holds {tokens} tokens and not {expected}"
    elif layout.grid is not None:
        grid = tuple(shape[layout.order.index("H") :][:2])
        problem = "" if layout.grid == grid else f"lies on a grid of {by(grid)}"
    if problem:
        grid_text = "" if layout.grid is None else f" on a grid of {by(layout.grid)}"
        raise ValueError(f"the layout is given as {layout.describe()}{grid_text}, but {tuple(shape)} {problem}")
