"""Regression of the teacher's centred logits: the "DTL" of the transfer-learning recipe of Heo et al."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from hf_abkd.objectives.citations import HEO_2019
from hf_abkd.objectives.objective import Objective


class CenteredLogits(Objective):
    """Match the teacher's logits up to a constant per sample.

    Used with an extra linear head on the student that predicts the *teacher's* classes when the target data set has
    other classes.

    Requirements: logits of both models over the teacher's classes, the student's from a head of its own: a term with
        `connector="linear"` makes it; no labels.
    Relations: `KnowledgeDistillation` is for a teacher with the student's classes; this one for a teacher of others,
        beside `CrossEntropy`.
    Paper: the transfer-learning recipe published with Heo et al., AAAI 2019,
        https://huggingface.co/papers/1811.03233
    Shapes: student, teacher (N, K), logits over the teacher's classes; returns ().

    Raises:
        ValueError: If a batch has fewer than two classes.

    Example:
        >>> import torch
        >>> from hf_abkd.objectives import CenteredLogits
        >>> logits = torch.tensor([[1.0, 2.0, 3.0]])
        >>> CenteredLogits()(logits, logits + 5).item()
        0.0
    """

    citation: ClassVar[str] = HEO_2019

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the mean squared difference of the logits after each sample's mean is removed, shape ()."""
        if student.shape[1] < 2:
            # The centred logit of one class is 0 whatever the logit: nothing would be learnt.
            raise ValueError(f"CenteredLogits needs at least 2 classes, got logits of {tuple(student.shape)}")
        difference = student - target
        return (difference - difference.mean(1, keepdim=True)).square().mean()
