"""Relational distillation by angles: which angles the samples of a batch form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from hf_abkd.layers.connection import Connection, Kind, Side
from hf_abkd.layers.forms import as_vectors
from hf_abkd.objectives.citations import PARK_2019
from hf_abkd.objectives.objective import Objective


class RelationalAngle(Objective):
    """Give any three samples of a batch the angle that they form for the teacher.

    The angle at a sample is given by its cosine, the product of the directions from it to the two others. The value is
    the mean Huber loss (quadratic up to a difference of 1) of the two models' cosines over all N * N * N triplets.

    Requirements: one layer a side, of any width; maps and tokens are averaged over the image. No labels, and no
        connector. It compares the samples of a batch with each other: with fewer than two it is worth 0. Its memory
        grows with N * N * (N + D): 256 samples of 512 features take 200 MB a side.
    Relations: `RelationalDistance` is the other half of relational knowledge distillation, and stands beside it.
    Paper: Park et al., "Relational Knowledge Distillation", CVPR 2019, https://huggingface.co/papers/1904.05068
        (RKD-A; its weights are 25 for distances and 50 for angles)
    Shapes: student (N, D_S), teacher (N, D_T); returns ().
    Differs: the paper sums over the triplets; the mean over N * N * N, those with a sample twice among them, is that
        of the authors' code, to which the weight belongs. Equal samples have no direction and no gradient.

    Example:
        >>> import torch
        >>> from hf_abkd.objectives import RelationalAngle
        >>> student = torch.rand(4, 3)
        >>> RelationalAngle()(student, 5 * student + 1).item() < 1e-6
        True
    """

    equal_shapes: ClassVar[bool] = False
    per_sample: ClassVar[bool] = False
    pairs = "head"
    published_weight: float = 50.0
    citation: ClassVar[str] = PARK_2019

    def connect(self, student: Sequence[Side], teacher: Sequence[Side], kind: Kind) -> Connection | None:
        """Propose the means over the image; "identity" leaves both tensors as they are, to be flattened."""
        if kind == "auto":
            return as_vectors(student[0], teacher[0])
        return None if kind == "identity" else super().connect(student, teacher, kind)

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the mean Huber loss of the cosines, shape ()."""
        loss: Tensor = functional.smooth_l1_loss(_cosines(student), _cosines(target))
        return loss


def _cosines(features: Tensor) -> Tensor:
    """Return for each sample the cosines of the angles to all pairs of samples, (N, N, N)."""
    flat = features.flatten(1)
    differences = flat[None, :, :] - flat[:, None, :]
    squares = differences.square().sum(2, keepdim=True)
    # Of a sample with itself there is no direction: dividing by a tiny norm would give a huge gradient there.
    apart = squares > 0
    directions = differences * torch.where(apart, torch.where(apart, squares, 1.0).rsqrt(), 0.0)
    return directions @ directions.transpose(1, 2)
