"""Prime-aware adaptive distillation: features, weighed by how sure the student can be of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from hf_abkd.layers.connection import Connection, Kind, Side
from hf_abkd.layers.forms import mapped_vectors
from hf_abkd.objectives.citations import ZHANG_2020
from hf_abkd.objectives.objective import Known, Objective
from hf_abkd.settings import number


class PrimeAwareAdaptiveDistillation(Objective):
    """Bring the student's features to the teacher's, and count those samples more of which it can be sure.

    A linear branch predicts from the student's features the logarithm v of the variance of each of them. The value is
    the mean of (student - teacher)^2 / (exp(v) + eps) + v: a difference counts less where the variance is large, which
    v itself makes dear.

    Requirements: one layer a side; maps and tokens are averaged over the image, and a linear map brings the student's
        width to the teacher's where they differ. No labels. The branch has weights of its own, which train with the
        student, are saved in checkpoints, and are no part of the student that is exported.
    Relations: `FeatureDistance` is the same with the variance 1, and comes first in the paper.
        `VariationalInformationDistillation` has one variance for each channel, whatever the sample.
    Paper: Zhang et al., "Prime-Aware Adaptive Distillation", ECCV 2020,
        https://www.ecva.net/papers/eccv_2020/papers_ECCV/html/3317_ECCV_2020_paper.php
    Shapes: student, teacher (N, D), of equal shape; returns (). The mean over features and samples; times D it is the
        paper's sum.
    Differs: the branch begins with the variance 1, so that the first step is that of `FeatureDistance`, and has no
        BatchNorm, so that a sample's variance does not depend on the batch; it reads the student's features behind
        the linear map.

    Args:
        eps: The least variance.

    Raises:
        ValueError: If `eps` is not positive.
        RuntimeError: If it has not begun: the width of the branch is that of the teacher's features.

    Example:
        >>> import torch
        >>> from hf_abkd.objectives import PrimeAwareAdaptiveDistillation
        >>> from hf_abkd.objectives.objective import Known
        >>> objective = PrimeAwareAdaptiveDistillation()
        >>> objective.begin(Known(targets=((2, 3),)))  # a run does that
        >>> objective(torch.ones(2, 3), torch.zeros(2, 3)).item() < 1.0
        True
    """

    trains: ClassVar[bool] = True
    pairs = "head"
    citation: ClassVar[str] = ZHANG_2020

    def __init__(self, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = number("eps", eps, above=0)
        self.branch: nn.Linear | None = None

    def connect(self, student: Sequence[Side], teacher: Sequence[Side], kind: Kind) -> Connection | None:
        """Propose the means over the image, and a linear map where the widths differ."""
        if kind == "auto":
            return mapped_vectors(student[0], teacher[0], always=False)
        return super().connect(student, teacher, kind)

    def begin(self, known: Known) -> None:
        """Make the branch, as wide as the teacher's features."""
        if self.branch is None:
            features = math.prod(known.targets[0][1:])
            self.branch = nn.Linear(features, features)
            nn.init.zeros_(self.branch.weight)
            nn.init.zeros_(self.branch.bias)

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the weighed squared differences and the logarithms of the variances, averaged, shape ()."""
        if self.branch is None:
            raise RuntimeError("PrimeAwareAdaptiveDistillation has not begun: outside of a run, call `begin` first")
        logarithms = self.branch(student.flatten(1))
        weighed = (student - target).flatten(1).square() / (logarithms.exp() + self.eps)
        value: Tensor = (weighed + logarithms).mean()
        return value

    def __repr__(self) -> str:
        """Show the settings, and not the branch, which follows from the models."""
        return f"{type(self).__name__}(eps={self.eps})"
