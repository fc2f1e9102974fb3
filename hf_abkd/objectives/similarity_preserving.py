"""Similarity preserving distillation: which samples of a batch a layer finds alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from hf_abkd.layers.connection import Connection, Kind, Side
from hf_abkd.objectives.objective import Objective


class SimilarityPreserving(Objective):
    """Have the student find those samples of a batch alike that the teacher finds alike.

    The similarities of a layer are the products of the flattened responses of any two samples, each row of the matrix
    divided by its norm. The value is the mean squared difference of the two models' matrices.

    Requirements: one layer a side, of any shape and width; no labels, and no connector. It compares the samples of a
        batch with each other: larger batches say more, and a batch of one sample is worth 0.
    Relations: `CorrelationCongruence` and `ProbabilisticKnowledgeTransfer` do not let the length of the responses
        count; `RelationalDistance` and `RelationalAngle` compare distances and angles.
    Paper: Tung and Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019,
        https://huggingface.co/papers/1907.09682
    Shapes: student (N, ...), teacher (N, ...); returns (). The weight in CRD's benchmark is 3000, with this reduction:
        the sum over the N * N pairs, divided by their number.
    Differs from the paper: nothing. Its weight, with several layers of a stage, is that of each term.

    Example:
        >>> import torch
        >>> from hf_abkd.objectives import SimilarityPreserving
        >>> student = torch.rand(4, 3)
        >>> SimilarityPreserving()(student, torch.cat([student, student], dim=1)).item() < 1e-12
        True
    """

    equal_shapes: ClassVar[bool] = False
    per_sample: ClassVar[bool] = False
    pairs = "last"
    published_weight: float = 3000.0
    citation: ClassVar[str] = """@inproceedings{tung2019similarity,
  title     = {Similarity-Preserving Knowledge Distillation},
  author    = {Tung, Frederick and Mori, Greg},
  booktitle = {Proceedings of the IEEE/CVF International Conference on Computer Vision},
  year      = {2019},
  url       = {https://arxiv.org/abs/1907.09682}
}"""

    def connect(self, student: Sequence[Side], teacher: Sequence[Side], kind: Kind) -> Connection | None:
        """Propose to leave both tensors as they are; another kind than "identity" is made as for any objective."""
        return None if kind in ("auto", "identity") else super().connect(student, teacher, kind)

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the mean squared difference of the similarities, shape ()."""
        return (_similarities(student) - _similarities(target)).square().mean()


def _similarities(responses: Tensor) -> Tensor:
    """Return the products of all pairs of samples, with rows of norm 1, (N, N)."""
    flat = responses.flatten(1)
    return functional.normalize(flat @ flat.T, dim=1)
