"""Inter-channel correlation: which channels of a layer respond together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from hf_abkd.layers.connection import Connection, Kind, Side
from hf_abkd.layers.connectors import AsMap, MapConnector
from hf_abkd.layers.forms import as_maps, map_layouts
from hf_abkd.objectives.objective import Objective


class InterChannelCorrelation(Objective):
    """Have those channels of the student respond together that do so for the teacher.

    The correlations of a sample are the products of any two channels, summed over the image, each row of the matrix
    divided by its norm. The value is the sum of the squared differences of the two models' matrices over the number
    of channels, averaged over samples.

    Requirements: one layer a side, on a grid over the image; no labels. The grids may differ; the student's channels
        are brought to the number of the teacher's by a 1x1 convolution with BatchNorm, which a term gets by itself.
    Relations: `FlowOfSolutionProcedure` does so with the channels of two layers; `NeuronSelectivityTransfer` does not
        ask which channel is which.
    Paper: Liu et al., "Exploring Inter-Channel Correlation for Diversity-Preserved Knowledge Distillation", ICCV 2021,
        https://huggingface.co/papers/2202.03680 (ICKD-C)
    Shapes: student (N, C, H_S, W_S), teacher (N, C, H_T, W_T); returns (). The published weight is 2.5, with the
        reduction of the authors' code, which is this one; over C it is the mean over the matrix.
    Differs from the authors' code: where the widths are equal there is no convolution, which `connector="map"` changes.

    Raises:
        ValueError: If tensors are no maps of equally many channels.

    Example:
        >>> import torch
        >>> from hf_abkd.objectives import InterChannelCorrelation
        >>> maps = torch.rand(2, 8, 4, 4)
        >>> InterChannelCorrelation()(maps, maps.repeat(1, 1, 2, 2)).item() < 1e-12
        True
    """

    equal_shapes: ClassVar[bool] = False
    published_weight: float = 2.5
    citation: ClassVar[str] = """@inproceedings{liu2021exploring,
  title     = {Exploring Inter-Channel Correlation for Diversity-Preserved Knowledge Distillation},
  author    = {Liu, Li and Huang, Qingle and Lin, Sihao and Xie, Hongwei and Wang, Bing and Chang, Xiaojun and
               Liang, Xiaodan},
  booktitle = {Proceedings of the IEEE/CVF International Conference on Computer Vision},
  year      = {2021},
  url       = {https://arxiv.org/abs/2202.03680}
}"""

    def connect(self, student: Sequence[Side], teacher: Sequence[Side], kind: Kind) -> Connection | None:
        """Propose maps of equally many channels, on grids of their own.

        Raises:
            ValueError: If a layer lies on no grid over the image, or channels differ that are to stay as they are.
        """
        if kind not in ("auto", "identity", "map"):
            return super().connect(student, teacher, kind)
        ours, theirs = map_layouts(student[0], teacher[0])
        channels = student[0].shape[ours.channel_dim], teacher[0].shape[theirs.channel_dim]
        if channels[0] == channels[1] and kind != "map":
            return as_maps(student[0], teacher[0])
        if kind == "identity":
            raise ValueError(
                f"InterChannelCorrelation compares equally many channels, got {channels[0]} of the student and "
                f"{channels[1]} of the teacher; give the term connector='map'"
            )
        form: nn.Module = AsMap(theirs)
        return Connection(MapConnector(*channels, layout=ours), form, "1x1 convolution + BatchNorm")

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the squared differences over the number of channels, averaged over samples, shape ()."""
        if student.ndim != 4 or target.ndim != 4 or student.shape[1] != target.shape[1]:
            raise ValueError(
                f"InterChannelCorrelation compares maps of equally many channels, got {tuple(student.shape)} of the "
                f"student and {tuple(target.shape)} of the teacher"
            )
        squares = (_correlations(student) - _correlations(target)).square()
        return squares.sum((1, 2)).mean() / student.shape[1]


def _correlations(maps: Tensor) -> Tensor:
    """Return the products of all pairs of channels, with rows of norm 1, (N, C, C)."""
    flat = maps.flatten(2)
    return functional.normalize(flat @ flat.transpose(1, 2), dim=2)
