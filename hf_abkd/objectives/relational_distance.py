"""Relational distillation by distances: how far samples of a batch are apart, compared with their mean."""

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


class RelationalDistance(Objective):
    """Give the samples of a batch the distances that they have for the teacher, in units of their mean.

    The distances of a model are divided by their mean over all pairs that are apart. The value is the mean Huber loss
    (quadratic up to a difference of 1) of the two models' over all N * N pairs.

    Requirements: one layer a side, of any width; maps and tokens are averaged over the image. No labels, and no
        connector. It compares the samples of a batch with each other: a batch of one sample is worth 0.
    Relations: `RelationalAngle` is the other half of relational knowledge distillation, and stands beside it.
        `SimilarityPreserving` compares products.
    Paper: Park et al., "Relational Knowledge Distillation", CVPR 2019, https://huggingface.co/papers/1904.05068
        (RKD-D; its weights are 25 for distances and 50 for angles)
    Shapes: student (N, D_S), teacher (N, D_T); returns ().
    Differs: the paper sums over the pairs; the mean over N * N pairs, those of a sample with itself among them, is
        that of the authors' code, to which the weight belongs. Two equal samples have the distance 0 and no gradient.

    Example:
        >>> import torch
        >>> from hf_abkd.objectives import RelationalDistance
        >>> student = torch.rand(4, 3)
        >>> RelationalDistance()(student, 5 * student + 1).item() < 1e-12
        True
    """

    equal_shapes: ClassVar[bool] = False
    per_sample: ClassVar[bool] = False
    pairs = "head"
    published_weight: float = 25.0
    citation: ClassVar[str] = PARK_2019

    def connect(self, student: Sequence[Side], teacher: Sequence[Side], kind: Kind) -> Connection | None:
        """Propose the means over the image; "identity" leaves both tensors as they are, to be flattened."""
        if kind == "auto":
            return as_vectors(student[0], teacher[0])
        return None if kind == "identity" else super().connect(student, teacher, kind)

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the mean Huber loss of the relative distances, shape ()."""
        loss: Tensor = functional.smooth_l1_loss(_relative_distances(student), _relative_distances(target))
        return loss


def _relative_distances(features: Tensor) -> Tensor:
    """Return the distances of all pairs of samples, divided by the mean of those that are not 0; (N, N)."""
    flat = features.flatten(1)
    # Not by products, in which near samples lose their digits; its gradient at the distance 0 is 0.
    distances = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    mean = distances.sum() / (distances.detach() > 0).sum().clamp(min=1)
    return distances / mean.clamp(min=1e-12)
