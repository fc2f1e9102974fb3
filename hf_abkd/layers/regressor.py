"""Regressor: three 1x1 convolutions from a layer of the student to the responses of one of the teacher."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from hf_abkd.layers.connection import Connection, Side
from hf_abkd.layers.connectors import AsMap
from hf_abkd.layers.forms import OnGrid, layout_of, map_layouts


def regressed(student: Side, teacher: Side) -> Connection:
    """Return the connection of two layers by three 1x1 convolutions with ReLU between them.

    Paper: Ahn et al., CVPR 2019, https://huggingface.co/papers/1904.05835 (without bias, as wide as the teacher's
        layer; here also of vectors, by linear layers)

    Raises:
        ValueError: If one of the two is a vector and the other is not, or lies on no grid over the image.
    """
    layouts = layout_of(student), layout_of(teacher)
    channels = [side.shape[layout.channel_dim] for side, layout in zip((student, teacher), layouts, strict=True)]
    if layouts[0].order == layouts[1].order == "NC":
        return Connection(_layers(channels, maps=False), nn.Identity(), "3 linear layers")
    ours, theirs = map_layouts(student, teacher)
    on_grid = [] if ours.grid == theirs.grid or theirs.grid is None else [OnGrid(theirs.grid)]
    connector = nn.Sequential(AsMap(ours), *on_grid, _layers(channels, maps=True))
    return Connection(connector, AsMap(theirs), "3 1x1 convolutions")


def _layers(channels: Sequence[int], *, maps: bool) -> nn.Sequential:
    inputs, outputs = channels
    widths = [(inputs, outputs), (outputs, outputs), (outputs, outputs)]
    first, second, third = (
        nn.Conv2d(*width, kernel_size=1, bias=False) if maps else nn.Linear(*width, bias=False) for width in widths
    )
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)
