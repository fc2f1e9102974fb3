"""Forms: maps or vectors of the responses of two layers, for objectives that need no equal shapes or compare means."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from hf_abkd.layers.connection import Connection, Kind, Side
from hf_abkd.layers.connectors import AsMap, EachLayer, MapConnector
from hf_abkd.layers.layout import Layout, check_layout


class AsVector(nn.Module):
    """The mean of responses over the positions of the image: any layout to (N, C). Nothing to train.

    Special tokens are left out where the positions are known; of tokens that lie on no grid it is the mean of all.

    Args:
        layout: How the responses lie.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        self.as_map = AsMap(layout)

    def forward(self, tensor: Tensor) -> Tensor:
        """Return a vector for each sample, (N, C)."""
        if tensor.ndim == 2:
            return tensor
        if self.layout.has_tokens and self.layout.grid is None:
            return tensor.movedim(self.layout.channel_dim, 1).mean(2)
        maps: Tensor = self.as_map(tensor)
        return maps.mean((2, 3))


class OnGrid(nn.Module):
    """Maps on another grid: the mean where it is coarser, bilinear interpolation where it is finer.

    Args:
        grid: Rows and columns.
    """

    def __init__(self, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, maps: Tensor) -> Tensor:
        """Return the maps on the grid, (N, C, H, W)."""
        coarser = (min(maps.shape[2], self.grid[0]), min(maps.shape[3], self.grid[1]))
        if maps.shape[2:] != coarser:
            maps = functional.adaptive_avg_pool2d(maps, coarser)
        if coarser != self.grid:
            maps = functional.interpolate(maps, size=self.grid, mode="bilinear", align_corners=False)
        return maps

    def extra_repr(self) -> str:
        """Return the grid."""
        return f"{self.grid[0]}x{self.grid[1]}"


def layout_of(side: Side) -> Layout:
    """Return how a tensor lies, as far as its shape tells where nothing else does.

    Raises:
        ValueError: If it cannot lie so.
    """
    layout = side.layout_or_plain
    check_layout(layout, side.shape)
    return layout


def map_layouts(student: Side, teacher: Side) -> tuple[Layout, Layout]:
    """Return how the tensors of two layers lie, both on a grid over the image.

    Raises:
        ValueError: If one of them lies on none.
    """
    layouts = layout_of(student), layout_of(teacher)
    for role, side, layout in zip(("student", "teacher"), (student, teacher), layouts, strict=True):
        if layout.grid is None:
            raise ValueError(
                f"the {role}'s tensor of shape {side.shape[1:]} lies on no grid over the image, and maps are compared. "
                "Name a layer that gives a map, or tokens of image patches."
            )
    return layouts


def as_maps(student: Side, teacher: Side) -> Connection:
    """Return what makes maps of the tensors of two layers, (N, C, H, W) each, and trains nothing.

    Raises:
        ValueError: If one of them lies on no grid over the image.
    """
    ours, theirs = map_layouts(student, teacher)
    return Connection(AsMap(ours), AsMap(theirs), "identity")


def maps_of_equal_channels(student: Side, teacher: Side, *, kind: Kind) -> Connection:
    """Return what makes maps of the teacher's channels of both tensors, each on its own grid.

    Args:
        student: The student's tensor.
        teacher: The teacher's.
        kind: "map" for a 1x1 convolution with BatchNorm in any case, "identity" for none, "auto" where channels differ.

    Raises:
        ValueError: If one lies on no grid over the image, or the channels differ and are to stay as they are.
    """
    ours, theirs = map_layouts(student, teacher)
    channels = student.shape[ours.channel_dim], teacher.shape[theirs.channel_dim]
    if channels[0] == channels[1] and kind != "map":
        return as_maps(student, teacher)
    if kind == "identity":
        raise ValueError(
            f"layers of equally many channels are compared, and the student's has {channels[0]}, the teacher's "
            f"{channels[1]}; give the term connector='map'"
        )
    form: nn.Module = AsMap(theirs)
    return Connection(MapConnector(*channels, layout=ours), form, "1x1 convolution + BatchNorm")


def each_of_equal_channels(objective: str, student: Sequence[Side], teacher: Sequence[Side], kind: Kind) -> Connection:
    """Return what makes maps of equal channels of several layers, each as `maps_of_equal_channels` does.

    Args:
        objective: What compares them, for messages.
        student: The student's tensors.
        teacher: The teacher's.
        kind: "auto", "identity" or "map".

    Raises:
        ValueError: If another kind is asked for, a layer lies on no grid, or channels differ that are to stay.
    """
    if kind not in ("auto", "identity", "map"):
        raise ValueError(f"{objective} can be connected by 'identity' or 'map', not by {kind!r}")
    pairs = [maps_of_equal_channels(*sides, kind=kind) for sides in zip(student, teacher, strict=True)]
    ours, theirs = EachLayer([pair.connector for pair in pairs]), EachLayer([pair.target_form for pair in pairs])
    return Connection(ours, theirs, ", ".join(dict.fromkeys(pair.description for pair in pairs)))


def as_vectors(student: Side, teacher: Side) -> Connection:
    """Return what makes vectors of the tensors of two layers, (N, C) each, by their means; it trains nothing."""
    ours, theirs = layout_of(student), layout_of(teacher)
    pooled = "NC" if ours.order == theirs.order == "NC" else "mean over positions"
    return Connection(AsVector(ours), AsVector(theirs), "identity" if pooled == "NC" else pooled)


def mapped_vectors(student: Side, teacher: Side, *, always: bool) -> Connection:
    """Return what makes vectors of equal width: means over the positions, and a linear map of the student's.

    Args:
        student: The student's tensor.
        teacher: The teacher's.
        always: Whether there is a linear map where the widths are equal, too.
    """
    plain = as_vectors(student, teacher)
    widths = student.shape[layout_of(student).channel_dim], teacher.shape[layout_of(teacher).channel_dim]
    if widths[0] == widths[1] and not always:
        return plain
    words = "linear" if plain.description == "identity" else f"{plain.description}, linear"
    return Connection(nn.Sequential(plain.connector, nn.Linear(*widths)), plain.target_form, words)


def same_grid(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return two maps on the coarser of their grids, (N, C, H, W) each; the finer one is averaged.

    Raises:
        ValueError: If one of them is no map.
    """
    if student.ndim != 4 or teacher.ndim != 4:
        raise ValueError(
            f"maps (N, C, H, W) are compared, got {tuple(student.shape)} of the student and {tuple(teacher.shape)} of "
            "the teacher"
        )
    grid = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    ours, theirs = (
        maps if maps.shape[2:] == grid else functional.adaptive_avg_pool2d(maps, grid) for maps in (student, teacher)
    )
    return ours, theirs
