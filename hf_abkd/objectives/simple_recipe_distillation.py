"""A simple recipe for distillation: normalised features behind a projector, of which the largest differences count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from hf_abkd.layers.connection import Connection, Kind, Side
from hf_abkd.layers.forms import mapped_vectors
from hf_abkd.objectives.objective import Objective
from hf_abkd.settings import number

# The least variance, and the least sum of which the logarithm is taken.
_LEAST_VARIANCE, _LEAST_SUM = 1e-4, 1e-12


class SimpleRecipeDistillation(Objective):
    """Bring the student's features to the teacher's behind a linear projector, both normalised over the batch.

    Each feature of both models is brought to mean 0 and variance 1 over the samples of the batch. The value is the
    logarithm of the sum over samples and features of |student - teacher| ** power: the largest differences count most,
    and the logarithm keeps a student that cannot reach its teacher from being pulled ever harder.

    Requirements: one layer a side; maps and tokens are averaged over the image. No labels. The projector is the
        connector that a term gets by itself, a linear map, also where the widths are equal. It compares the samples of
        a batch with each other; one sample alone has no gradient.
    Relations: `FeatureDistance` is the plain distance. The authors have `KnowledgeDistillation(temperature=1.0)` and
        the labels beside it, each with the weight 1.
    Paper: Miles and Mikolajczyk, "Understanding the Role of the Projector in Knowledge Distillation", AAAI 2024,
        https://huggingface.co/papers/2303.11098 (`power` is its alpha, 4)
    Shapes: student, teacher (N, D), of equal shape; returns (). The published weight is 2. The value grows by log N
        with the batch and may be below 0; its gradient does neither.
    Differs from the authors' code: the statistics are always those of the batch; samples that are all equal give the
        logarithm of 1e-12 in the place of that of 0.

    Args:
        power: What the differences are raised to.

    Raises:
        ValueError: If `power` is below 1.

    Example:
        >>> import torch
        >>> from hf_abkd.objectives import SimpleRecipeDistillation
        >>> student, teacher = torch.rand(4, 3), torch.rand(4, 3)
        >>> objective = SimpleRecipeDistillation()
        >>> bool(objective(5 * teacher + 1, teacher) < objective(student, teacher))
        True
    """

    per_sample: ClassVar[bool] = False
    pairs = "head"
    published_weight: float = 2.0
    citation: ClassVar[str] = """@inproceedings{miles2024understanding,
  title     = {Understanding the Role of the Projector in Knowledge Distillation},
  author    = {Miles, Roy and Mikolajczyk, Krystian},
  booktitle = {Proceedings of the AAAI Conference on Artificial Intelligence},
  year      = {2024},
  url       = {https://arxiv.org/abs/2303.11098}
}"""

    def __init__(self, *, power: float = 4.0) -> None:
        super().__init__()
        self.power = number("power", power, least=1)

    def connect(self, student: Sequence[Side], teacher: Sequence[Side], kind: Kind) -> Connection | None:
        """Propose the means over the image, and a linear projector."""
        if kind == "auto":
            return mapped_vectors(student[0], teacher[0], always=True)
        return super().connect(student, teacher, kind)

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the logarithm of the sum, shape ()."""
        differences = (_normalized(student) - _normalized(target)).abs()
        return differences.pow(self.power).sum().clamp(min=_LEAST_SUM).log()

    def extra_repr(self) -> str:
        """Show the settings in `repr`, logs and model cards."""
        return f"power={self.power}"


def _normalized(features: Tensor) -> Tensor:
    """Return features of mean 0 and variance 1 over the samples, (N, D)."""
    centred = features - features.mean(0, keepdim=True)
    return centred * (centred.square().mean(0, keepdim=True) + _LEAST_VARIANCE).rsqrt()
