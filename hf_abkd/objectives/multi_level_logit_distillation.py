"""Multi-level logit distillation: samples, pairs of samples and pairs of classes, at several temperatures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from hf_abkd.objectives.objective import Objective
from hf_abkd.objectives.probabilities import check_classes, divergence
from hf_abkd.settings import number


class MultiLevelLogitDistillation(Objective):
    """Match the teacher's probabilities, which samples it takes for alike, and which classes it says together.

    With P (N, K) the probabilities of a batch at one temperature, three things are compared: each row of P, by the
    divergence; P P^T, how alike the samples are; and P^T P, how alike the classes. The values at all temperatures are
    added.

    Requirements: logits of both models over the same classes; no labels. Of a cached teacher all logits: behind the
        largest ones alone, the others are spread evenly. The samples of a batch are compared with each other: a batch
        that is split by gradient accumulation or over processes has another value.
    Relations: the first part at one temperature is `KnowledgeDistillation`; `StrongerTeacher` compares samples and
        classes by correlations. `CrossEntropy` stands beside it.
    Paper: Jin et al., "Multi-Level Logit Distillation", CVPR 2023,
        https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html
        (the three weights are 1). The part of samples has the squared temperature and is a mean over samples; the
        squared differences of the matrices are summed, and divided by N and by K: the latter's grow with the batch,
        64 in the paper.
    Shapes: student, teacher (N, K), logits; returns ().
    Differs from the authors' code: it shows each image in two views, one strongly augmented, and adds up what both are
        worth; here it is the view that the batch holds. The code also multiplies values of the weak view by the share
        of samples, or classes, of which the teacher is not surer than of the median one, computes the matrices of the
        strong view without using them, and takes the weak view at two of the strong one's temperatures. With one view
        for both, it comes to `instance_weight=1.35`, `batch_weight=0.45` and `class_weight=0.45`, beside `CrossEntropy`
        at 0.2.

    Args:
        temperatures: What both sets of logits are divided by, one after the other.
        instance_weight: The weight of the divergence of each sample.
        batch_weight: The weight of how alike samples are.
        class_weight: The weight of how alike classes are.

    Raises:
        ValueError: If there are no temperatures, one is not positive and finite, a weight is negative or not finite, or
            a batch has fewer than two classes.

    Example:
        >>> import torch
        >>> from hf_abkd.objectives import MultiLevelLogitDistillation
        >>> logits = torch.randn(4, 10)
        >>> abs(round(MultiLevelLogitDistillation()(logits + 1, logits).item(), 4))
        0.0
    """

    per_sample: ClassVar[bool] = False
    citation: ClassVar[str] = """@inproceedings{jin2023multi,
  title     = {Multi-Level Logit Distillation},
  author    = {Jin, Ying and Wang, Jiaqi and Lin, Dahua},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  pages     = {24276--24285},
  year      = {2023},
  url       = {https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html}
}"""

    def __init__(
        self,
        *,
        temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0),
        instance_weight: float = 1.0,
        batch_weight: float = 1.0,
        class_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if not isinstance(temperatures, Sequence) or isinstance(temperatures, str) or not temperatures:
            raise ValueError(f"temperatures must be positive numbers, at least one, got {temperatures!r}")
        self.temperatures = tuple(number("each of temperatures", each, above=0) for each in temperatures)
        self.instance_weight = number("instance_weight", instance_weight, least=0)
        self.batch_weight = number("batch_weight", batch_weight, least=0)
        self.class_weight = number("class_weight", class_weight, least=0)

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the weighted sum of the three parts, added over the temperatures, shape ()."""
        check_classes("MultiLevelLogitDistillation", student)
        values = []
        for temperature in self.temperatures:
            ours, theirs = ((logits / temperature).softmax(1) for logits in (student, target))
            samples = (ours @ ours.T - theirs @ theirs.T).square().sum() / len(ours)
            classes = (ours.T @ ours - theirs.T @ theirs).square().sum() / ours.shape[1]
            instances = divergence(student, target, temperature) * temperature**2
            values.append(self.instance_weight * instances + self.batch_weight * samples + self.class_weight * classes)
        return torch.stack(values).sum()

    def extra_repr(self) -> str:
        """Show the settings in `repr`, logs and model cards."""
        return (
            f"temperatures={self.temperatures}, instance_weight={self.instance_weight}, "
            f"batch_weight={self.batch_weight}, class_weight={self.class_weight}"
        )
