"""Which positions of a wide teacher's layer a step compares, and what both sides say there."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_abkd.boundaries.packing import unpack_units
from hf_abkd.data.draws import number_of
from hf_abkd.layers.layout import Layout


def drawn_positions(positions: int, count: int, *, seed: int, name: str, step: int) -> Tensor:
    """Return the positions that a step compares, (count,), int64, in ascending order, on the CPU.

    The layer is cut into `count` parts of neighbours, from a random position on, and each step takes one position of
    each part, so that it sees all of the image and not, as it may happen, its border alone. Those of a part are
    shuffled and take turns; when all had theirs, the layer is cut anew. In each step every position is as likely as any
    other, so that the mean over the drawn ones is, in expectation, that over all; and none waits long. The draw is a
    function of these numbers alone: it is the same in all processes, in all batches of a step with gradient
    accumulation, and in a resumed run.

    Args:
        positions: How many there are.
        count: How many are drawn.
        seed: The seed of the run.
        name: What compares them: others draw others.
        step: How many steps of the run are done.

    Example:
        >>> first, second = (drawn_positions(6, 3, seed=0, name="layer1", step=step) for step in (0, 1))
        >>> sorted([*first.tolist(), *second.tolist()])
        [0, 1, 2, 3, 4, 5]
    """
    turns = -(-positions // count)
    turn, place = divmod(step, turns)
    generator = torch.Generator().manual_seed(number_of("positions", seed, name, turn) % 2**63)
    first = torch.randint(positions, (), generator=generator)
    begins = torch.arange(count) * positions // count
    # Some parts have one position less than there are turns: theirs begin again.
    sizes = torch.diff(begins, append=torch.tensor([positions]))[:, None]
    keys = torch.rand(count, turns, generator=generator).masked_fill(torch.arange(turns) >= sizes, 2.0)
    taken = keys.argsort(1).gather(1, place % sizes)[:, 0]
    return ((first + begins + taken) % positions).sort().values


@dataclass(frozen=True)
class PositionDraws:
    """The positions of a layer, of which each step compares some.

    Args:
        layout: How the teacher's tensor lies.
        shape: The shape of a sample of it.
        as_map: Whether both sides are compared as maps, without special tokens.
        share: Which share of them is compared.
    """

    layout: Layout
    shape: tuple[int, ...]
    as_map: bool
    share: float

    @property
    def total(self) -> int:
        """How many positions there are."""
        everywhere = math.prod(self.shape) // self.shape[self.layout.channel_dim - 1]
        return everywhere - (self.layout.special_tokens if self.as_map else 0)

    @property
    def count(self) -> int:
        """How many of them a step compares."""
        return math.ceil(self.share * self.total)

    def draw(self, seed: int, name: str, step: int) -> Tensor:
        """Return the positions of a step, (count,), int64; see `drawn_positions`."""
        return drawn_positions(self.total, self.count, seed=seed, name=name, step=step)

    def of_teacher(self, target: Tensor, positions: Tensor) -> Tensor:
        """Return what the teacher says at some positions, channels last; packed sides of others are not unpacked.

        Shapes: target (N, *shape) or packed, (N, bytes); positions (P,), int64; returns (N, P, D), bool if packed.
        """
        places = self._places(positions)
        dim = self.layout.channel_dim
        if target.dtype != torch.uint8:
            return at(target.detach(), dim, places)
        units = self.shape[dim - 1]
        if dim == 1 and len(self.shape) > 1:
            return unpack_units(target, (units, math.prod(self.shape[1:])), places, 2).movedim(1, -1)
        return unpack_units(target, (math.prod(self.shape) // units, units), places, 1)

    def of_student(self, adapted: Tensor, positions: Tensor) -> Tensor:
        """Return what is behind the connector at some positions, channels last, (N, P, D)."""
        if self.as_map:
            return at(adapted, 1, positions)
        return at(adapted, self.layout.channel_dim, positions)

    def _places(self, positions: Tensor) -> Tensor:
        """Return where in the teacher's tensor the positions lie."""
        if not self.as_map or not self.layout.has_tokens:
            return positions
        if self.layout.positions is not None:
            positions = torch.tensor(self.layout.positions, device=positions.device)[positions]
        return positions + self.layout.special_tokens


def at(tensor: Tensor, channel_dim: int, places: Tensor) -> Tensor:
    """Return a tensor (N, ...) at some of its positions, counted in order without the channels, as (N, P, C)."""
    return tensor.movedim(channel_dim, -1).flatten(1, -2).index_select(1, places)
