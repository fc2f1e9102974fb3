"""Correlation congruence: how samples of a batch go together under a Gaussian kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from hf_abkd.layers.connection import Connection, Kind, Side
from hf_abkd.layers.forms import as_vectors
from hf_abkd.objectives.objective import Objective
from hf_abkd.settings import number, whole_number


class CorrelationCongruence(Objective):
    """Have the samples of a batch go together for the student as they do for the teacher, under a Gaussian kernel.

    Of the features of two samples, divided by their norms, the kernel exp(-gamma |x - y|^2) is
    exp(-2 gamma) exp(2 gamma x.y), whose second factor is taken as its Taylor series up to `order`. The value is the
    mean squared difference of the two models' matrices of it.

    Requirements: one layer a side, of any width; maps and tokens are averaged over the image. No labels, and no
        connector. It compares the samples of a batch with each other: a batch of one sample is worth 0.
    Relations: `SimilarityPreserving` compares the products themselves, `ProbabilisticKnowledgeTransfer` what share of
        a sample's similarity each other one has.
    Paper: Peng et al., "Correlation Congruence for Knowledge Distillation", ICCV 2019,
        https://huggingface.co/papers/1904.01802 (`gamma` 0.4, `order` 2 is its P; beside knowledge distillation)
    Shapes: student (N, D_S), teacher (N, D_T); returns ().
    Differs: this is the paper's formula. What CRD's benchmark calls by this name, with the weight 0.02 and two
        embeddings of 128 features that train, multiplies the differences of neighbouring samples and is another one;
        that weight does not belong to this value, for which 1 is a beginning and no published number. Here are no
        embeddings: one of the teacher that trains can make any two samples alike.

    Args:
        gamma: How fast the kernel falls with the squared distance.
        order: The last term of the series.

    Raises:
        ValueError: If `gamma` is not positive, or `order` is below 1.

    Example:
        >>> import torch
        >>> from hf_abkd.objectives import CorrelationCongruence
        >>> student = torch.rand(4, 3)
        >>> CorrelationCongruence()(student, 5 * student).item() < 1e-12
        True
    """

    equal_shapes: ClassVar[bool] = False
    per_sample: ClassVar[bool] = False
    pairs = "head"
    citation: ClassVar[str] = """@inproceedings{peng2019correlation,
  title     = {Correlation Congruence for Knowledge Distillation},
  author    = {Peng, Baoyun and Jin, Xiao and Liu, Jiaheng and Li, Dongsheng and Wu, Yichao and Liu, Yu and
               Zhou, Shunfeng and Zhang, Zhaoning},
  booktitle = {Proceedings of the IEEE/CVF International Conference on Computer Vision},
  year      = {2019},
  url       = {https://arxiv.org/abs/1904.01802}
}"""

    def __init__(self, *, gamma: float = 0.4, order: int = 2) -> None:
        super().__init__()
        self.gamma = number("gamma", gamma, above=0)
        self.order = whole_number("order", order, least=1)

    def connect(self, student: Sequence[Side], teacher: Sequence[Side], kind: Kind) -> Connection | None:
        """Propose the means over the image; "identity" leaves both tensors as they are, to be flattened."""
        if kind == "auto":
            return as_vectors(student[0], teacher[0])
        return None if kind == "identity" else super().connect(student, teacher, kind)

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the mean squared difference of the kernels, shape ()."""
        return (self._kernel(student) - self._kernel(target)).square().mean()

    def _kernel(self, features: Tensor) -> Tensor:
        """Return the kernel of all pairs of samples, (N, N)."""
        directions = functional.normalize(features.flatten(1), dim=1)
        exponents = 2 * self.gamma * directions @ directions.T
        terms = [exponents.pow(power) / math.factorial(power) for power in range(self.order + 1)]
        return math.exp(-2 * self.gamma) * torch.stack(terms).sum(0)

    def extra_repr(self) -> str:
        """Show the settings in `repr`, logs and model cards."""
        return f"gamma={self.gamma}, order={self.order}"
