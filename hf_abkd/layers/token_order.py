"""Token order: which token of a layer sees which cell of the image.

Most layers hold the positions of the image row by row. Some cut it into windows or fold patches into a dimension,
and nothing in a shape tells. What tells is a change: noise on a part of an earlier map reaches, above all, the tokens
that see this part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from hf_abkd.layers.capture import Capture, CapturePoint
from hf_abkd.layers.layout import Layout
from hf_abkd.models.kept_state import evaluating

# The share of the tokens that must see the half of the map in which an order puts them. Measured over all families of
# transformers: 0.9 and more row by row, 0.6 and less where tokens are folded or reordered.
_IN_ORDER = 0.75
# How much of a token's change must depend on which half was changed, for it to say anything: 2 where a token sees one
# half of either axis, 0 where it sees all. Attention without a residual path sees everything: 0.6 and less in LeViT.
_LOCAL = 0.75

Forward = Callable[[Tensor], object]


@dataclass(frozen=True)
class Place:
    """A tensor whose positions may lie in another order.

    Args:
        point: Where it is.
        layout: How it lies if they lie row by row.
        sources: Modules before it whose outputs are maps, (N, C, H, W), best first: one on a branch, such as the keys
            of an attention, reaches all tokens alike. Without any, the images are changed.
    """

    point: CapturePoint
    layout: Layout
    sources: tuple[str, ...]


def find_order(model: nn.Module, forward: Forward, images: Tensor, place: Place) -> Layout:
    """Return how a tensor lies: row by row if nothing speaks against it, or with the positions of its tokens.

    If another order could not be found, the layout has no grid. Takes five forward passes for each source,
    no further than the tensor, and one more for each row and column if the tokens lie in another order.

    Args:
        model: The model, in any mode.
        forward: Runs the model on a batch of images.
        images: The images, (N, C, H, W).
        place: The tensor.
    """
    layout = place.layout
    for source in place.sources or (None,):
        probe = _Probe(model, forward, images, place, source)
        halves = probe.halves()
        if halves.local < _LOCAL:
            continue
        if halves.share_in_order(layout, None) >= _IN_ORDER:
            return layout
        if layout.has_tokens:
            positions = probe.positions()
            if halves.share_in_order(layout, positions) >= _IN_ORDER:
                return replace(layout, positions=positions)
        return Layout(layout.order)
    return layout


@dataclass(frozen=True)
class _Halves:
    """How much more each token changes by the upper half than by the lower, (L,); by the left than by the right."""

    vertical: Tensor
    horizontal: Tensor
    local: float

    def share_in_order(self, layout: Layout, positions: Sequence[int] | None) -> float:
        """Return the share of the tokens that see the halves in which this order puts them."""
        rows, columns = layout.grid or (1, len(self.vertical))
        right = count = 0
        for axis, more in enumerate((self.vertical, self.horizontal)):
            by_cell = (more if positions is None else more[list(positions)]).view(rows, columns)
            lines = by_cell if axis == 0 else by_cell.T
            half = len(lines) // 2
            right += int((lines[:half] > 0).sum() + (lines[len(lines) - half :] < 0).sum())
            count += 2 * half * lines.shape[1]
        return right / max(count, 1)


class _Probe:
    """Change parts of a map, and see how much each token changes."""

    def __init__(self, model: nn.Module, forward: Forward, images: Tensor, place: Place, source: str | None) -> None:
        self.model, self.forward, self.images, self.place = model, forward, images, place
        self.source = source
        self.plain = self._tokens(None)

    def halves(self) -> _Halves:
        """Change each half of the map."""
        upper, lower = self._changes(0, 2)
        left, right = self._changes(1, 2)
        vertical, horizontal = upper - lower, left - right
        differences = (vertical.abs().mean() + horizontal.abs().mean()) / 2
        change = (upper + lower + left + right).mean() / 4
        return _Halves(vertical, horizontal, float(differences / change.clamp(min=1e-12)))

    def positions(self) -> tuple[int, ...]:
        """Return which token sees which cell of the grid best, row by row; each token once."""
        logs = []
        for axis, count in enumerate(self.place.layout.grid or (1, 1)):
            squared = torch.stack(self._changes(axis, count)).square() + 1e-12
            logs.append((squared / squared.sum(0)).log())
        # Layers mix neighbours, which then compete for a token: the best assignment of all is far more often right
        # than the best of each.
        scores = (logs[0][:, None] + logs[1][None]).flatten(0, 1)
        return tuple(linear_sum_assignment(scores.numpy(), maximize=True)[1].tolist())

    def _changes(self, axis: int, count: int) -> list[Tensor]:
        """Return how much each token changes by each of `count` equal parts along an axis, (L,) each."""
        parts = [(axis, part, count) for part in range(count)]
        return [(self._tokens(part) - self.plain).norm(dim=-1).sum(0).cpu() for part in parts]

    def _tokens(self, part: tuple[int, int, int] | None) -> Tensor:
        """Return the tokens without the special ones, (N, L, C), with noise on a part of the map."""
        point, layout, source = self.place.point, self.place.layout, self.source

        def change(_: nn.Module, __: object, output: Tensor) -> Tensor:
            return _with_noise(output, part)

        def run() -> object:
            return self.forward(_with_noise(self.images, part) if source is None else self.images)

        # A copy, as a later operation may overwrite it.
        capture = Capture(self.model, [point], overwritten=[point])
        handle = None if source is None else self.model.get_submodule(source).register_forward_hook(change)
        try:
            with capture, evaluating(self.model), torch.no_grad():
                tensor = capture.run(run, stop=True)[1][point].float()
        finally:
            if handle is not None:
                handle.remove()
        return tensor.movedim(layout.channel_dim, -1).flatten(1, -2)[:, layout.special_tokens :]


def _with_noise(maps: Tensor, part: tuple[int, int, int] | None) -> Tensor:
    """Add noise to one of several equal parts along an axis of maps, (N, C, H, W)."""
    if part is None:
        return maps
    axis, index, count = part
    lines = torch.arange(maps.shape[2 + axis], device=maps.device) * count // maps.shape[2 + axis] == index
    where = lines[:, None] if axis == 0 else lines[None]
    # Always the same, and not what anyone else would draw: noise on equal noise only scales it.
    noise = torch.randn(maps.shape, generator=torch.Generator().manual_seed(5_468_731)).to(maps)
    return maps + noise * maps.float().std().clamp(min=0.1).to(maps) * where
