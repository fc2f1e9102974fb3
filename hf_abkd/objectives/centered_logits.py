"""Regression of the teacher's centred logits: the "DTL" of the transfer-learning recipe of Heo et al."""

from __future__ import annotations

from torch import Tensor

from hf_abkd.objectives.objective import Objective


class CenteredLogits(Objective):
    """Match the teacher's logits up to a constant per sample.

    Used with an extra linear head on the student that predicts the *teacher's* classes when the target data set has
    other classes.

    Paper: the transfer-learning recipe published with Heo et al., AAAI 2019,
        https://huggingface.co/papers/1811.03233
    Shapes: student, teacher (N, K), logits over the teacher's classes; returns ().
    """

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the mean squared difference of the logits after each sample's mean is removed, shape ()."""
        difference = student - target
        return (difference - difference.mean(1, keepdim=True)).square().mean()
