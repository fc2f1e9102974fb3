"""Feature distance: the features of a layer, averaged over the image, squared differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from hf_abkd.layers.connection import Connection, Kind, Side
from hf_abkd.layers.forms import mapped_vectors
from hf_abkd.objectives.citations import ZHANG_2020
from hf_abkd.objectives.objective import Objective


class FeatureDistance(Objective):
    """Bring the student's features, averaged over the image, to the teacher's: mean squared differences.

    Requirements: one layer a side; maps and tokens are averaged over the image, and a linear map brings the student's
        width to the teacher's where they differ. No labels.
    Relations: `Hint` compares position by position. `PrimeAwareAdaptiveDistillation` weighs the differences by a
        variance that it learns, and is trained after this one. `SimpleRecipeDistillation` lets large differences count.
    Paper: the L2 distance of embeddings that Zhang et al., "Prime-Aware Adaptive Distillation", ECCV 2020, begin from:
        https://www.ecva.net/papers/eccv_2020/papers_ECCV/html/3317_ECCV_2020_paper.php
    Shapes: student, teacher (N, D), of equal shape; returns (). The mean over features and samples; times D it is the
        squared distance.
    Differs from the paper: nothing is normalised, and where widths are equal there is no linear map.

    Example:
        >>> import torch
        >>> from hf_abkd.objectives import FeatureDistance
        >>> FeatureDistance()(torch.ones(2, 3), torch.zeros(2, 3)).item()
        1.0
    """

    pairs = "head"
    citation: ClassVar[str] = ZHANG_2020

    def connect(self, student: Sequence[Side], teacher: Sequence[Side], kind: Kind) -> Connection | None:
        """Propose the means over the image, and a linear map where the widths differ."""
        if kind == "auto":
            return mapped_vectors(student[0], teacher[0], always=False)
        return super().connect(student, teacher, kind)

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the mean squared difference, shape ()."""
        return (student - target).square().mean()
