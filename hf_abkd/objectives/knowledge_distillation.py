"""Knowledge distillation from the teacher's softened class probabilities."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from hf_abkd.objectives.objective import Objective
from hf_abkd.objectives.probabilities import check_classes, divergence
from hf_abkd.settings import number


class KnowledgeDistillation(Objective):
    """Match the teacher's class probabilities, softened by a temperature.

    The value is KL(teacher || student) of the two softmax distributions at that temperature, averaged over samples.

    Requirements: logits of both models over the same classes; no labels. Where the models name their classes, a term
        compares those that both have.
    Relations: `DecoupledKnowledgeDistillation` weighs the true class and the others apart and needs labels;
        `CenteredLogits` is for a teacher of other classes. Beside it usually stands `CrossEntropy`.
    Paper: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015,
        https://huggingface.co/papers/1503.02531
    Shapes: student, teacher (N, K), logits; returns ().

    Args:
        temperature: What both sets of logits are divided by; larger is softer.
        temperature_squared: Multiply by the squared temperature, so that the size of the gradient does not depend
            on the temperature. Hinton et al. do; the published code of Heo et al. does not.

    Raises:
        ValueError: If `temperature` is not positive and finite, or a batch has fewer than two classes.

    Example:
        >>> import torch
        >>> from hf_abkd.objectives import KnowledgeDistillation
        >>> objective = KnowledgeDistillation(temperature=1.0)
        >>> round(objective(torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]).log()).item(), 4)
        0.1308
    """

    citation: ClassVar[str] = """@article{hinton2015distilling,
  title   = {Distilling the Knowledge in a Neural Network},
  author  = {Hinton, Geoffrey and Vinyals, Oriol and Dean, Jeff},
  journal = {arXiv preprint arXiv:1503.02531},
  year    = {2015},
  url     = {https://arxiv.org/abs/1503.02531}
}"""

    def __init__(self, *, temperature: float = 4.0, temperature_squared: bool = True) -> None:
        super().__init__()
        self.temperature = number("temperature", temperature, above=0)
        self.temperature_squared = temperature_squared

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the divergence averaged over samples, shape ()."""
        check_classes("KnowledgeDistillation", student)
        value = divergence(student, target, self.temperature)
        return value * self.temperature**2 if self.temperature_squared else value

    def extra_repr(self) -> str:
        """Show the settings in `repr`, logs and model cards."""
        return f"temperature={self.temperature}, temperature_squared={self.temperature_squared}"
