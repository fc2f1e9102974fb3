"""Decoupled knowledge distillation: how sure the teacher is, and what it thinks of the other classes, apart."""

from __future__ import annotations

import math
from collections.abc import Set as AbstractSet
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from hf_abkd.objectives.objective import Objective
from hf_abkd.objectives.probabilities import labelled, mean_of_labelled
from hf_abkd.settings import number


class DecoupledKnowledgeDistillation(Objective):
    """Match the teacher's probability of the true class, and its probabilities among the other classes, apart.

    The divergence of knowledge distillation is the sum of two parts: that of the pair (true class, all others), and
    that of the distribution among the others, weighted by the probability that the teacher leaves to them. A teacher
    that is sure leaves them next to nothing, and what it knows of them is hardly learnt. Here the second part has a
    weight of its own.

    Requirements: logits of both models over the same classes, and labels. A sample with the label -100 has none and is
        left out, as `CrossEntropy` does.
    Relations: `KnowledgeDistillation` is the undivided form, which needs no labels. Beside it stands `CrossEntropy`.
    Paper: Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022, https://huggingface.co/papers/2203.08679
        (`target_weight` is its alpha, `other_weight` its beta; it uses alpha 1, and beta from 1 to 8, by the pair of
        models). It raises the weight of the term over the first epochs: `Term(..., weight=LinearUntil(...))`.
    Shapes: student, teacher (N, K), logits; labels (N,), integers in [0, K) or -100; returns ().
    Differs from the authors' code: the true class is left out of the others by its position, where they take 1000 from
        its logit; the logarithms are never those of rounded probabilities.

    Args:
        temperature: What both sets of logits are divided by; larger is softer.
        target_weight: The weight of the part of the true class.
        other_weight: The weight of the part of the other classes.

    Raises:
        ValueError: If `temperature` is not positive and finite, a weight is negative or not finite, or a batch has
            fewer than two classes.
        TypeError: If the labels of a batch are not integers of shape (N,).

    Example:
        >>> import torch
        >>> from hf_abkd.objectives import DecoupledKnowledgeDistillation
        >>> objective = DecoupledKnowledgeDistillation(temperature=4.0, other_weight=2.0)
        >>> logits, labels = torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([0])
        >>> objective(logits, logits, labels=labels).item()
        0.0
    """

    needs: ClassVar[AbstractSet[str]] = frozenset({"teacher", "labels"})
    citation: ClassVar[str] = """@inproceedings{zhao2022decoupled,
  title     = {Decoupled Knowledge Distillation},
  author    = {Zhao, Borui and Cui, Quan and Song, Renjie and Qiu, Yiyu and Liang, Jiajun},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2022},
  url       = {https://arxiv.org/abs/2203.08679}
}"""

    def __init__(self, *, temperature: float = 4.0, target_weight: float = 1.0, other_weight: float = 8.0) -> None:
        super().__init__()
        self.temperature = number("temperature", temperature, above=0)
        self.target_weight = number("target_weight", target_weight, least=0)
        self.other_weight = number("other_weight", other_weight, least=0)

    def forward(self, student: Tensor, teacher: Tensor, *, labels: Tensor) -> Tensor:
        """Return the weighted sum of both divergences, averaged over the samples that have a label, shape ()."""
        is_true, known = labelled("DecoupledKnowledgeDistillation", student, labels)
        ours, theirs = (_log_probabilities(logits / self.temperature, is_true) for logits in (student, teacher))
        of_target, of_others = (_divergence(one, other) for one, other in zip(ours, theirs, strict=True))
        values = self.target_weight * of_target + self.other_weight * of_others
        return mean_of_labelled(values, known) * self.temperature**2

    def extra_repr(self) -> str:
        """Show the settings in `repr`, logs and model cards."""
        return f"temperature={self.temperature}, target_weight={self.target_weight}, other_weight={self.other_weight}"


def _log_probabilities(logits: Tensor, is_true: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logarithms of the true class and of all others together, (N, 2), and those among the others, (N, K).

    That of the true class among the others is 0, which is the logarithm of nothing that is compared.
    """
    others = logits.masked_fill(is_true, -math.inf)
    everything = logits.logsumexp(1)
    of_true = (logits * is_true).sum(1) - everything
    of_others = others.logsumexp(1) - everything
    among_others = functional.log_softmax(others, dim=1).masked_fill(is_true, 0.0)
    return torch.stack([of_true, of_others], dim=1), among_others


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Return sum p_T (log p_T - log p_S) of logarithms of probabilities, (N,)."""
    return (teacher.exp() * (teacher - student)).sum(1)
