"""Variational information distillation: the teacher's responses under a Gaussian whose mean the student predicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from hf_abkd.layers.connection import Connection, Kind, Side
from hf_abkd.layers.regressor import regressed
from hf_abkd.objectives.objective import Known, Objective
from hf_abkd.settings import number


class VariationalInformationDistillation(Objective):
    """Have the student tell as much as it can of the teacher's responses: their likelihood under a Gaussian.

    The mean of the Gaussian is what a regressor predicts from the student's responses, and its variance is one number
    for each channel of the teacher, which is learnt: softplus(a_c) + eps. The value is the negative logarithm of the
    likelihood without its constant, ((mean - teacher)^2 / variance + log variance) / 2, averaged over all elements.

    Requirements: one layer a side: maps, tokens on a grid over the image, or vectors; no labels. The regressor is the
        connector that a term gets by itself, three 1x1 convolutions (linear layers of vectors) with ReLU between them.
        Variances and regressor train with the student, are saved in checkpoints, and are no part of the student that
        is exported.
    Relations: `Hint` is the same with equal variances; `PrimeAwareAdaptiveDistillation` has variances of each sample.
    Paper: Ahn et al., "Variational Information Distillation for Knowledge Transfer", CVPR 2019,
        https://huggingface.co/papers/1904.05835
    Shapes: student, teacher (N, C, ...), of equal shape; returns (). The weight in CRD's benchmark is 1 for each of the
        layers, with this reduction.
    Differs from the authors' code: grids that differ are made equal on the student's side alone.

    Args:
        variance: The variance of every channel at the beginning.
        eps: The least variance.

    Raises:
        ValueError: If `variance` is not above `eps`, or `eps` is not positive.
        RuntimeError: If it has not begun: there are as many variances as the teacher has channels.

    Example:
        >>> import torch
        >>> from hf_abkd.objectives import VariationalInformationDistillation
        >>> from hf_abkd.objectives.objective import Known
        >>> objective, maps = VariationalInformationDistillation(variance=1.0), torch.rand(2, 8, 4, 4)
        >>> objective.begin(Known(targets=((2, 8, 4, 4),)))  # a run does that
        >>> round(objective(maps, maps).item(), 4)
        0.0
    """

    trains: ClassVar[bool] = True
    citation: ClassVar[str] = """@inproceedings{ahn2019variational,
  title     = {Variational Information Distillation for Knowledge Transfer},
  author    = {Ahn, Sungsoo and Hu, Shell Xu and Damianou, Andreas and Lawrence, Neil D. and Dai, Zhenwen},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2019},
  url       = {https://arxiv.org/abs/1904.05835}
}"""

    def __init__(self, *, variance: float = 5.0, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = number("eps", eps, above=0)
        self.variance = number("variance", variance, above=self.eps)
        #: The a_c of all channels, (C,).
        self.scale: nn.Parameter | None = None

    def connect(self, student: Sequence[Side], teacher: Sequence[Side], kind: Kind) -> Connection | None:
        """Propose the regressor; another kind than "auto" is made as for any objective.

        Raises:
            ValueError: If the two cannot be connected.
        """
        return regressed(student[0], teacher[0]) if kind == "auto" else super().connect(student, teacher, kind)

    def begin(self, known: Known) -> None:
        """Make the variances, one for each channel of the teacher."""
        if self.scale is None:
            shape = known.targets[0]
            channels = shape[_channel_dim(shape)]
            self.scale = nn.Parameter(torch.full((channels,), math.log(math.expm1(self.variance - self.eps))))

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the mean negative logarithm of the likelihood without its constant, shape ()."""
        if self.scale is None:
            raise RuntimeError("VariationalInformationDistillation has not begun: outside of a run, call `begin` first")
        variance = functional.softplus(self.scale) + self.eps
        variance = variance.view(-1, *[1] * (student.ndim - 1 - _channel_dim(student.shape)))
        return ((student - target).square() / variance + variance.log()).mean() / 2

    def extra_repr(self) -> str:
        """Show the settings in `repr`, logs and model cards."""
        return f"variance={self.variance}, eps={self.eps}"


def _channel_dim(shape: Sequence[int]) -> int:
    """Return where the channels lie: behind the samples, or last of tokens that were left as they are."""
    return 2 if len(shape) == 3 else 1
