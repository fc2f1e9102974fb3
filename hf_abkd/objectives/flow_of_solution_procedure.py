"""Flow of the solution procedure: how the features of one layer go with those of a later one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from hf_abkd.layers.connection import Connection, Kind, Side
from hf_abkd.layers.connectors import AsMap, EachLayer, MapConnector
from hf_abkd.objectives.objective import Objective


class FlowOfSolutionProcedure(Objective):
    """Match how two layers of the teacher go together: the products of their channels, averaged over the image.

    Of two maps F1 and F2 of one model the matrix G holds, for each pair of a channel of the one and a channel of the
    other, the mean over all positions of their product. The value is the mean squared difference of the two models'.

    Requirements: two layers a side, on grids over the image, whose channels are equal in pairs; no labels. Layers of
        other widths are brought to the teacher's with `Term(..., connector="map")`, which the paper does not do.
    Relations: `ActivationBoundary` compares one layer, position by position; here the two models may have other grids.
    Paper: Yim et al., "A Gift from Knowledge Distillation", CVPR 2017,
        https://openaccess.thecvf.com/content_cvpr_2017/html/Yim_A_Gift_From_CVPR_2017_paper.html
    Shapes: student, teacher each two maps, (N, C1, H1, W1) and (N, C2, H2, W2), C1 and C2 as the other model's;
        returns ().
    Differs from the paper: it trains by several pairs of layers, which are several terms here, and sums the squares
        over the matrix; the mean needs no other weight for other widths (times C1 * C2 it is the sum).

    Raises:
        ValueError: If there are not two maps a side, or their channels differ.

    Example:
        >>> import torch
        >>> from hf_abkd.objectives import FlowOfSolutionProcedure
        >>> first, second = torch.rand(2, 3, 8, 8), torch.rand(2, 5, 4, 4)
        >>> FlowOfSolutionProcedure()((first, second), (first, second)).item()
        0.0
    """

    layers: ClassVar[int | None] = 2
    equal_shapes: ClassVar[bool] = False
    citation: ClassVar[str] = """@inproceedings{yim2017gift,
  title     = {A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer Learning},
  author    = {Yim, Junho and Joo, Donggyu and Bae, Jihoon and Kim, Junmo},
  booktitle = {Proceedings of the IEEE Conference on Computer Vision and Pattern Recognition},
  year      = {2017},
  url       = {https://openaccess.thecvf.com/content_cvpr_2017/html/Yim_A_Gift_From_CVPR_2017_paper.html}
}"""

    def forward(self, student: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        """Return the mean squared difference of the two flows, shape ()."""
        ours, theirs = _flow(student, "student"), _flow(target, "teacher")
        if ours.shape != theirs.shape:
            raise ValueError(
                f"FlowOfSolutionProcedure compares layers of {ours.shape[1]} and {ours.shape[2]} channels with layers "
                f"of {theirs.shape[1]} and {theirs.shape[2]}; give the term connector='map'"
            )
        return (ours - theirs).square().mean()

    def connect(self, student: Sequence[Side], teacher: Sequence[Side], kind: Kind) -> Connection:
        """Propose what makes maps of the layers; with the kind "map" also what brings them to the teacher's channels.

        Raises:
            ValueError: If channels differ and no map is asked for, or another kind is, or a layer lies on no grid.
        """
        if kind not in ("auto", "identity", "map"):
            raise ValueError(f"FlowOfSolutionProcedure can be connected by 'identity' or 'map', not by {kind!r}")
        pairs = [_connected(one, other, kind) for one, other in zip(student, teacher, strict=True)]
        connectors, target_forms = ([pair[side] for pair in pairs] for side in (0, 1))
        description = "1x1 convolution + BatchNorm" if kind == "map" else "identity"
        return Connection(EachLayer(connectors), EachLayer(target_forms), description)


def _flow(maps: Sequence[Tensor], role: str) -> Tensor:
    """Return the mean products of the channels of two maps, (N, C1, C2); the larger map is pooled to the smaller."""
    if len(maps) != 2 or any(tensor.ndim != 4 for tensor in maps):
        shapes = [tuple(tensor.shape) for tensor in maps]
        raise ValueError(f"FlowOfSolutionProcedure needs two maps (N, C, H, W) of the {role}, got {shapes}")
    first, second = maps
    rows, columns = min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3])
    first, second = (_pooled(tensor, rows, columns).flatten(2) for tensor in (first, second))
    return first @ second.transpose(1, 2) / (rows * columns)


def _pooled(maps: Tensor, rows: int, columns: int) -> Tensor:
    if maps.shape[2:] == (rows, columns):
        return maps
    pooled: Tensor = functional.adaptive_max_pool2d(maps, (rows, columns))
    return pooled


def _connected(student: Side, teacher: Side, kind: Kind) -> tuple[nn.Module, nn.Module]:
    """Return what the student's layer goes through, and what the teacher's."""
    ours, theirs = (side.layout_or_plain for side in (student, teacher))
    for role, layout, side in (("student", ours, student), ("teacher", theirs, teacher)):
        if layout.grid is None:
            raise ValueError(f"the {role}'s layer of shape {side.shape} lies on no grid over the image; name another")
    channels = student.shape[ours.channel_dim], teacher.shape[theirs.channel_dim]
    if kind == "map":
        return MapConnector(*channels, layout=ours), AsMap(theirs)
    if channels[0] != channels[1]:
        raise ValueError(
            f"FlowOfSolutionProcedure compares layers of equal channels, and the student's has {channels[0]}, the "
            f"teacher's {channels[1]}. Name other layers, or give the term connector='map'."
        )
    return AsMap(ours), AsMap(theirs)
