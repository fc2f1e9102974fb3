"""Domain classification: from which of two domains a sample comes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from hf_abkd.layers.connection import Connection, Kind, Side
from hf_abkd.layers.connectors import DomainDiscriminator
from hf_abkd.objectives.objective import Objective


class DomainClassification(Objective):
    """Tell target samples from source samples.

    Behind a connector that reverses the gradient (`hf_abkd.layers.connectors.DomainDiscriminator`, which a term
    with this objective gets by itself) the model learns features by which they cannot be told.

    Paper: Ganin and Lempitsky, ICML 2015, https://huggingface.co/papers/1409.7495
    Shapes: student (N, 1), the logit of "target"; domains (N,), integers: 0 source, 1 target, -1 neither; returns ().
    """

    needs: ClassVar[AbstractSet[str]] = frozenset({"domains"})
    citation: ClassVar[str] = """@inproceedings{ganin2015unsupervised,
  title     = {Unsupervised Domain Adaptation by Backpropagation},
  author    = {Ganin, Yaroslav and Lempitsky, Victor},
  booktitle = {International Conference on Machine Learning},
  year      = {2015},
  url       = {https://arxiv.org/abs/1409.7495}
}"""

    def connect(self, student: Sequence[Side], teacher: Sequence[Side], kind: Kind) -> Connection:
        """Propose a discriminator that reverses the gradient, whatever kind is asked for."""
        discriminator = DomainDiscriminator(math.prod(student[0].shape[1:]))
        return Connection(discriminator, nn.Identity(), "domain discriminator")

    def forward(self, student: Tensor, domains: Tensor) -> Tensor:
        """Return the binary cross-entropy averaged over samples, shape ()."""
        known = (domains >= 0).to(student.dtype)
        logits = student.flatten(1).mean(1)
        losses = functional.binary_cross_entropy_with_logits(logits, (domains == 1).to(student.dtype), reduction="none")
        return (losses * known).sum() / len(student)
