"""Review fusion: a student's layers, from the deepest to the first, each together with all that lie behind it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from hf_abkd.layers.connection import Side
from hf_abkd.layers.connectors import AsMap
from hf_abkd.layers.forms import layout_of


class ReviewFusion(nn.Module):
    """Maps of several layers of the student, each fused with those behind it, on the grids of the teacher's layers.

    Args:
        student: The student's tensors, from the first layer to the deepest.
        teacher: Likewise the teacher's.
        width: The channels in which layers are fused.
    """

    def __init__(self, student: Sequence[Side], teacher: Sequence[Side], width: int) -> None:
        super().__init__()
        self.forms = nn.ModuleList(as_map(side) for side in student)
        self.fusions = nn.ModuleList(
            _Fusion(channels_of(one), width, channels_of(other), grid_of(other), is_deepest=number == len(student) - 1)
            for number, (one, other) in enumerate(zip(student, teacher, strict=True))
        )

    def forward(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return a map for each layer, (N, C_teacher, H, W), in the order of the layers."""
        maps = [form(tensor) for form, tensor in zip(self.forms, tensors, strict=True)]
        fused: list[Tensor] = []
        deeper: Tensor | None = None
        for fusion, own in zip(reversed(self.fusions), reversed(maps), strict=True):
            result, deeper = fusion(own, deeper)
            fused.append(result)
        return tuple(reversed(fused))


class _Fusion(nn.Module):
    """One layer with what was fused behind it: shares of both, place by place, as their maps say."""

    def __init__(self, channels: int, width: int, wanted: int, grid: tuple[int, int], *, is_deepest: bool) -> None:
        super().__init__()
        self.grid = grid
        self.inner = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width))
        self.shares = None if is_deepest else nn.Conv2d(2 * width, 2, 1)
        self.outer = nn.Sequential(nn.Conv2d(width, wanted, 3, padding=1, bias=False), nn.BatchNorm2d(wanted))
        for part in (self.inner, self.outer):
            nn.init.kaiming_uniform_(part[0].weight, a=1)  # type: ignore[arg-type]

    def forward(self, maps: Tensor, deeper: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the map that is compared, and the one that is fused with the layer before."""
        fused: Tensor = self.inner(maps)
        if self.shares is not None and deeper is not None:
            deeper = _resized(deeper, (fused.shape[2], fused.shape[3]))
            shares = self.shares(torch.cat([fused, deeper], 1)).sigmoid()
            fused = fused * shares[:, :1] + deeper * shares[:, 1:]
        fused = _resized(fused, self.grid)
        return self.outer(fused), fused


def as_map(side: Side) -> nn.Module:
    """Return what makes a map of a tensor, (N, C, H, W); of a vector one of a single place.

    Raises:
        ValueError: If it lies on no grid over the image and is no vector.
    """
    layout = layout_of(side)
    if layout.order == "NC":
        return nn.Unflatten(1, (side.shape[1], 1, 1))
    if layout.grid is None:
        raise ValueError(f"the tensor of shape {side.shape} lies on no grid over the image; name another layer")
    return AsMap(layout)


def channels_of(side: Side) -> int:
    """Return how many channels a tensor has."""
    return side.shape[layout_of(side).channel_dim]


def grid_of(side: Side) -> tuple[int, int]:
    """Return rows and columns of a tensor's map; of a vector 1 and 1."""
    return layout_of(side).grid or (1, 1)


def _resized(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    return maps if maps.shape[2:] == grid else functional.interpolate(maps, size=grid, mode="nearest")
