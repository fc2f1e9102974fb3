"""Probabilistic knowledge transfer: how likely each sample of a batch is to be the neighbour of another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from hf_abkd.layers.connection import Connection, Kind, Side
from hf_abkd.layers.forms import as_vectors
from hf_abkd.objectives.objective import Objective

# The least probability, as in the authors' code.
_LEAST = 1e-7


class ProbabilisticKnowledgeTransfer(Objective):
    """Give each sample of a batch the neighbours, among the others, that it has for the teacher.

    The similarity of two samples is (1 + cosine) / 2 of their features, and the probability of the one given the other
    is its share of the similarity to all others. The value is the divergence of the student's probabilities from the
    teacher's, summed over the pairs of different samples and divided by N * N.

    Requirements: one layer a side, of any width; maps and tokens are averaged over the image. No labels, and no
        connector. It compares the samples of a batch with each other: with fewer than three it is worth 0.
    Relations: `CorrelationCongruence` and `SimilarityPreserving` compare similarities and no shares of them.
    Paper: Passalis and Tefas, "Learning Deep Representations with Probabilistic Knowledge Transfer", ECCV 2018,
        https://huggingface.co/papers/1803.10837 (its cosine kernel)
    Shapes: student (N, D_S), teacher (N, D_T); returns (). The weight in CRD's benchmark is 30000, with this reduction.
    Differs from the authors' code: the paper's probabilities are those among the other samples; the code counts each
        sample as its own neighbour, too, which makes all differences smaller.

    Example:
        >>> import torch
        >>> from hf_abkd.objectives import ProbabilisticKnowledgeTransfer
        >>> student = torch.rand(4, 3)
        >>> abs(ProbabilisticKnowledgeTransfer()(student, 5 * student).item()) < 1e-6
        True
    """

    equal_shapes: ClassVar[bool] = False
    per_sample: ClassVar[bool] = False
    pairs = "head"
    published_weight: float = 30000.0
    citation: ClassVar[str] = """@inproceedings{passalis2018learning,
  title     = {Learning Deep Representations with Probabilistic Knowledge Transfer},
  author    = {Passalis, Nikolaos and Tefas, Anastasios},
  booktitle = {Proceedings of the European Conference on Computer Vision},
  year      = {2018},
  url       = {https://arxiv.org/abs/1803.10837}
}"""

    def connect(self, student: Sequence[Side], teacher: Sequence[Side], kind: Kind) -> Connection | None:
        """Propose the means over the image; "identity" leaves both tensors as they are, to be flattened."""
        if kind == "auto":
            return as_vectors(student[0], teacher[0])
        return None if kind == "identity" else super().connect(student, teacher, kind)

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the divergence over the number of pairs, shape ()."""
        ours, theirs = _probabilities(student), _probabilities(target)
        return (theirs * ((theirs + _LEAST).log() - (ours + _LEAST).log())).mean()


def _probabilities(features: Tensor) -> Tensor:
    """Return the probability of each sample as a neighbour of each other one, rows that sum to 1; (N, N)."""
    directions = functional.normalize(features.flatten(1), dim=1)
    itself = torch.eye(len(directions), dtype=torch.bool, device=directions.device)
    similarities = ((1 + directions @ directions.T) / 2).masked_fill(itself, 0.0)
    return similarities / similarities.sum(1, keepdim=True).clamp(min=_LEAST)
