"""DIST: how the classes of a sample, and the samples of a class, stand to each other in the teacher's probabilities."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from hf_abkd.objectives.correlation import correlation
from hf_abkd.objectives.objective import Objective
from hf_abkd.objectives.probabilities import check_classes
from hf_abkd.settings import number


class StrongerTeacher(Objective):
    """Make the student's probabilities go with the teacher's, within each sample and within each class (DIST).

    A strong teacher's probabilities are further from a small student than it can come. Asked for is their correlation
    alone: for each sample that over the classes, and for each class that over the samples of the batch. A student that
    is less sure by a straight line, in all samples alike, has nothing more to learn.

    Requirements: logits of both models over the same classes; no labels. Of a cached teacher all logits: behind the
        largest ones alone, the others are spread evenly. The samples of a batch are compared with each other: a batch
        that is split by gradient accumulation or over processes has another value. **A batch of one sample** has no
        correlation over samples; only that over the classes counts in it.
    Relations: `KnowledgeDistillation` asks for the probabilities themselves, `LogitStandardization` for logits up to a
        straight line of each sample. `FeatureCorrelation` is what DIST+ adds on a layer.
    Paper: Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022,
        https://huggingface.co/papers/2205.10536
        (`inter_class_weight` is its beta, `intra_class_weight` its gamma). Published: weights 1 and temperature 1 on
        ImageNet; 2 and 4 on CIFAR-100; beside `CrossEntropy` at 1.
    Shapes: student, teacher (N, K), logits; returns ().
    Differs from the authors' code: it multiplies by the squared temperature, which the paper does not; that is
        `Term(..., weight=temperature**2)`, so 16 for the settings of CIFAR-100. The code counts a batch of one
        sample as one without any correlation over samples, which adds `intra_class_weight` and no gradient. As there,
        1e-8 is added to the product of the two norms: a class whose probabilities stay within about 1e-4 over a batch
        counts for less.

    Args:
        temperature: What both sets of logits are divided by; larger is softer.
        inter_class_weight: The weight of the part within each sample, over its classes.
        intra_class_weight: The weight of the part within each class, over the samples.

    Raises:
        ValueError: If `temperature` is not positive and finite, a weight is negative or not finite, or a batch has
            fewer than two classes.

    Example:
        >>> import torch
        >>> from hf_abkd.objectives import StrongerTeacher
        >>> teacher = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.6, 0.2]])
        >>> less_sure = teacher / 2 + 1 / 6
        >>> abs(round(StrongerTeacher()(less_sure.log(), teacher.log()).item(), 5))
        0.0
    """

    per_sample: ClassVar[bool] = False
    citation: ClassVar[str] = """@inproceedings{huang2022knowledge,
  title     = {Knowledge Distillation from A Stronger Teacher},
  author    = {Huang, Tao and You, Shan and Wang, Fei and Qian, Chen and Xu, Chang},
  booktitle = {Advances in Neural Information Processing Systems},
  volume    = {35},
  year      = {2022},
  url       = {https://arxiv.org/abs/2205.10536}
}"""

    def __init__(
        self, *, temperature: float = 1.0, inter_class_weight: float = 1.0, intra_class_weight: float = 1.0
    ) -> None:
        super().__init__()
        self.temperature = number("temperature", temperature, above=0)
        self.inter_class_weight = number("inter_class_weight", inter_class_weight, least=0)
        self.intra_class_weight = number("intra_class_weight", intra_class_weight, least=0)

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the weighted sum of what both correlations lack to 1, each a mean, shape ()."""
        check_classes("StrongerTeacher", student)
        ours, theirs = ((logits / self.temperature).softmax(1) for logits in (student, target))
        value = self.inter_class_weight * (1 - correlation(ours, theirs, 1).mean())
        if len(student) > 1:
            value = value + self.intra_class_weight * (1 - correlation(ours, theirs, 0).mean())
        return value

    def extra_repr(self) -> str:
        """Show the settings in `repr`, logs and model cards."""
        return (
            f"temperature={self.temperature}, inter_class_weight={self.inter_class_weight}, "
            f"intra_class_weight={self.intra_class_weight}"
        )
