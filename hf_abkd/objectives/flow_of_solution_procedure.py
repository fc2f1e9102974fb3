"""Flow of the solution procedure: how the features of one layer go with those of a later one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from hf_abkd.layers.connection import Connection, Kind, Side
from hf_abkd.layers.forms import each_of_equal_channels
from hf_abkd.objectives.objective import NEIGHBOURS, Objective, Pairs


class FlowOfSolutionProcedure(Objective):
    """Match how two layers of the teacher go together: the products of their channels, averaged over the image.

    Of two maps F1 and F2 of one model the matrix G holds, for each pair of a channel of the one and a channel of the
    other, the mean over all positions of their product. The value is the mean squared difference of the two models'.

    Requirements: two layers a side, on grids over the image; no labels. Layers of other widths are brought to the
        teacher's by a 1x1 convolution with BatchNorm, which the paper does not do.
    Relations: `ActivationBoundary` compares one layer, position by position; here the two models may have other grids.
    Paper: Yim et al., "A Gift from Knowledge Distillation", CVPR 2017,
        https://openaccess.thecvf.com/content_cvpr_2017/html/Yim_A_Gift_From_CVPR_2017_paper.html
    Shapes: student, teacher each two maps, (N, C1, H1, W1) and (N, C2, H2, W2), C1 and C2 as the other model's;
        returns ().
    Differs from the paper: it trains by several pairs of layers, which are several terms here
        (`feature_distillation` has one for each layer and the next), and sums the squares over the matrix; the mean
        needs no other weight for other widths (times C1 * C2 it is the sum). Its stage of this alone, before one of
        labels alone, is a stage of `label_weight=0`.

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
    pairs: ClassVar[Pairs] = NEIGHBOURS
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
        """Propose maps of equal channels, layer by layer.

        Raises:
            ValueError: If a layer lies on no grid, or channels differ that are to stay as they are.
        """
        return each_of_equal_channels("FlowOfSolutionProcedure", student, teacher, kind)


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
