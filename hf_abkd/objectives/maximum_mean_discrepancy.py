"""Maximum mean discrepancy: how far the features of two domains are apart."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import ClassVar

import torch
from torch import Tensor

from hf_abkd.objectives.objective import Objective
from hf_abkd.settings import number


class MaximumMeanDiscrepancy(Objective):
    """Bring the features of two domains together, by the squared distance of their means under Gaussian kernels.

    With k the sum over several bandwidths of exp(-|x - y|^2 / bandwidth), the value is the mean of k over the pairs of
    source samples, plus that over the pairs of target samples, minus twice that over the mixed pairs. The bandwidths
    are multiples of the mean squared distance of all pairs of different samples, through which no gradient flows.

    Requirements: a tensor of the student, batches of two domains (`PairedDomains`); neither a teacher nor labels. It
        compares the samples of a batch with each other: larger batches measure better.
    Relations: `DomainClassification` brings two domains together by a discriminator that is trained against the
        features. Either stands beside `CrossEntropy` on the rows of the source.
    Paper: Gretton et al., JMLR 2012, https://jmlr.org/papers/v13/gretton12a.html; Long et al., ICML 2015,
        https://huggingface.co/papers/1502.02791 (several kernels, on features)
    Shapes: features (N, ...), flattened; domains (N,), integers: 0 source, 1 target, -1 neither; returns (). It is 0
        where a domain has no sample in the batch.

    Args:
        multiples: The bandwidths as multiples of the mean squared distance.

    Raises:
        ValueError: If there are no multiples, or one is not positive.

    Example:
        >>> import torch
        >>> from hf_abkd.objectives import MaximumMeanDiscrepancy
        >>> features, domains = torch.tensor([[0.0], [0.1], [5.0], [5.1]]), torch.tensor([0, 0, 1, 1])
        >>> objective = MaximumMeanDiscrepancy()
        >>> bool(objective(features, domains) > 10 * objective(features[[0, 2, 1, 3]], domains))
        True
    """

    needs: ClassVar[AbstractSet[str]] = frozenset({"domains"})
    per_sample: ClassVar[bool] = False
    citation: ClassVar[str] = """@article{gretton2012kernel,
  title   = {A Kernel Two-Sample Test},
  author  = {Gretton, Arthur and Borgwardt, Karsten M. and Rasch, Malte J. and Sch{\\"o}lkopf, Bernhard and
             Smola, Alexander},
  journal = {Journal of Machine Learning Research},
  volume  = {13},
  pages   = {723--773},
  year    = {2012}
}"""

    def __init__(self, *, multiples: Sequence[float] = (0.25, 0.5, 1.0, 2.0, 4.0)) -> None:
        super().__init__()
        if not isinstance(multiples, Sequence) or isinstance(multiples, str) or not multiples:
            raise ValueError(f"multiples must be positive numbers, at least one, got {multiples!r}")
        self.multiples = tuple(float(number("each of multiples", multiple, above=0)) for multiple in multiples)

    def forward(self, student: Tensor, domains: Tensor) -> Tensor:
        """Return the squared discrepancy, shape ()."""
        features = student.flatten(1)
        # One weight per sample instead of a selection: the shapes do not depend on the batch.
        source, other = ((domains == domain).to(features.dtype) for domain in (0, 1))
        weights = source / source.sum().clamp(min=1) - other / other.sum().clamp(min=1)
        weights = weights * ((source.sum() > 0) & (other.sum() > 0))
        known = source + other
        # Centred on the mean, numbers far from 0 do not cancel in the squares.
        centred = (features - (features.detach() * known[:, None]).sum(0) / known.sum().clamp(min=1)) * known[:, None]
        squares = centred.square().sum(1)
        distances = (squares[:, None] + squares[None, :] - 2 * centred @ centred.T).clamp(min=0)
        pairs = known[:, None] * known[None, :]
        count = (known.sum().square() - known.sum()).clamp(min=1)
        spread = ((distances.detach() * pairs).sum() / count).clamp(min=torch.finfo(features.dtype).tiny)
        kernel = torch.stack([(-distances / (spread * multiple)).exp() for multiple in self.multiples]).sum(0)
        return weights @ kernel @ weights

    def extra_repr(self) -> str:
        """Show the settings in `repr`, logs and model cards."""
        return f"multiples={self.multiples}"
