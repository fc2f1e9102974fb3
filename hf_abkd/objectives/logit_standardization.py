"""Logit standardisation: the order and the spacing of the teacher's logits, whatever their size."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from hf_abkd.objectives.objective import Objective
from hf_abkd.objectives.probabilities import check_classes, divergence
from hf_abkd.settings import number


class LogitStandardization(Objective):
    """Match the teacher's softened probabilities after the logits of each sample got mean 0 and variance 1.

    With one temperature for both models, the student can only match a teacher by logits of the same spread, which a
    small student hardly reaches. Standardised, two rows of logits are equal as soon as the one is a straight line of
    the other; how sure the student is remains free, and is what `CrossEntropy` teaches it.

    Requirements: logits of both models over the same classes; no labels. Of a cached teacher all logits: behind the
        largest ones alone, the others are spread evenly, which changes their variance.
    Relations: `KnowledgeDistillation` is the form with logits as they are. Spherical knowledge distillation (Guo et
        al., 2020, https://huggingface.co/papers/2010.07485) in the form of its authors' README, with their temperature
        T 4 and multiplier m 2 to 3, is this objective with `temperature=T / m` and `Term(..., weight=m**2)`; its
        cross-entropy is of standardised logits too, here it is of the logits as they are.
    Paper: Sun et al., "Logit Standardization in Knowledge Distillation", CVPR 2024,
        https://huggingface.co/papers/2403.01427
        (`temperature` is its base temperature tau). Published: tau 2, or 3, and `Term(..., weight=9)` beside
        `CrossEntropy` at 0.1. The squared temperature and the mean over samples are in the value already.
    Shapes: student, teacher (N, K), logits; returns ().
    Differs from the authors' code: the variance is over K, as in the paper, where the code's is over K - 1; nothing is
        added to the standard deviation, and logits that are all equal, as those of a head of zeros, are divided by 1.

    Args:
        temperature: What the standardised logits are divided by; larger is softer.

    Raises:
        ValueError: If `temperature` is not positive and finite, or a batch has fewer than two classes.

    Example:
        >>> import torch
        >>> from hf_abkd.objectives import LogitStandardization
        >>> logits = torch.tensor([[3.0, 1.0, 0.0]])
        >>> round(LogitStandardization()(5 * logits + 2, logits).item(), 6)
        0.0
    """

    citation: ClassVar[str] = """@inproceedings{sun2024logit,
  title     = {Logit Standardization in Knowledge Distillation},
  author    = {Sun, Shangquan and Ren, Wenqi and Li, Jingzhi and Wang, Rui and Cao, Xiaochun},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2024},
  url       = {https://arxiv.org/abs/2403.01427}
}"""

    def __init__(self, *, temperature: float = 2.0) -> None:
        super().__init__()
        self.temperature = number("temperature", temperature, above=0)

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the divergence times the squared temperature, averaged over samples, shape ()."""
        check_classes("LogitStandardization", student)
        return divergence(_standardized(student), _standardized(target), self.temperature) * self.temperature**2

    def extra_repr(self) -> str:
        """Show the settings in `repr`, logs and model cards."""
        return f"temperature={self.temperature}"


def _standardized(logits: Tensor) -> Tensor:
    """Return logits (N, K) with mean 0 and variance 1 in each row; with mean 0 where all of a row are equal."""
    centered = logits - logits.mean(1, keepdim=True)
    deviation = torch.linalg.vector_norm(centered, dim=1, keepdim=True) / logits.shape[1] ** 0.5
    # Of equal logits the mean may be off by rounding, which divided by itself would be a spread of 1, and its gradient
    # beyond all bounds; a head of zeros, whose logits are equal, has to be able to learn.
    is_flat = deviation <= 1e-6 * logits.abs().amax(1, keepdim=True)
    return centered / torch.where(is_flat, 1.0, deviation)
