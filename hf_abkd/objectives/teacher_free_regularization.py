"""Teacher-free distillation by a teacher that is written down: sure of the label, and of all others alike."""

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


class TeacherFreeRegularization(Objective):
    """Match the softened probabilities of a virtual teacher that is always right (Tf-KD, the regularised form).

    The virtual teacher gives the labelled class the probability a, and each other class the same share of the rest.
    Both its distribution and the student's are softened by a high temperature.

    Requirements: the student's logits and labels; no teacher. A sample with the label -100 has none and is left out, as
        `CrossEntropy` does.
    Relations: `CrossEntropy` stands beside it. With `label_smoothing` that one compares the same distribution at
        temperature 1. The other form of the paper, self-training, is `KnowledgeDistillation` with a trained copy of the
        student as the teacher: train the student alone, and give the result to a second run as `teacher=`.
    Paper: Yuan et al., "Revisiting Knowledge Distillation via Label Smoothing Regularization", CVPR 2020,
        https://huggingface.co/papers/1909.11723
        (`correct_probability` is its a, which it sets to 0.9 or more; `temperature` its tau, 20 or more). It weighs
        `CrossEntropy` with 1 - alpha and this with alpha. No squared temperature is in its formula nor here: at
        temperature 20 `Term(..., weight=400 * alpha)` gives the gradient the size that it has in Hinton et al.
    Shapes: student (N, K), logits; labels (N,), integers in [0, K) or -100; returns ().
    Differs from the authors' code, which does not compute the paper's formula: it softens the virtual teacher's
        probabilities as if they were logits, which leaves them all but equal, and compares the student's without a
        temperature. Up to a constant that is `CrossEntropy(label_smoothing=...)`; with its settings for ResNet-18 on
        CIFAR-100 (alpha 0.1, and a mean over classes times 100) one of 0.1. Of the paper's text and its figure 3, this
        is the formula.

    Args:
        correct_probability: What the virtual teacher gives the labelled class.
        temperature: What the logits of both are divided by; larger is softer.

    Raises:
        ValueError: If `correct_probability` is not between 0 and 1, `temperature` is not positive and finite, or a
            batch has fewer than two classes.
        TypeError: If the labels of a batch are not integers of shape (N,).

    Example:
        >>> import torch
        >>> from hf_abkd.objectives import TeacherFreeRegularization
        >>> objective = TeacherFreeRegularization(correct_probability=0.9)
        >>> round(objective(torch.tensor([[0.05, 0.9, 0.05]]).log(), torch.tensor([1])).item(), 6)
        0.0
    """

    needs: ClassVar[AbstractSet[str]] = frozenset({"labels"})
    citation: ClassVar[str] = """@inproceedings{yuan2020revisiting,
  title     = {Revisiting Knowledge Distillation via Label Smoothing Regularization},
  author    = {Yuan, Li and Tay, Francis E. H. and Li, Guilin and Wang, Tao and Feng, Jiashi},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  pages     = {3903--3911},
  year      = {2020},
  url       = {https://arxiv.org/abs/1909.11723}
}"""

    def __init__(self, *, correct_probability: float = 0.99, temperature: float = 20.0) -> None:
        super().__init__()
        self.correct_probability = number("correct_probability", correct_probability, above=0, below=1)
        self.temperature = number("temperature", temperature, above=0)

    def forward(self, student: Tensor, labels: Tensor) -> Tensor:
        """Return the divergence averaged over the samples that have a label, shape ()."""
        is_true, known = labelled("TeacherFreeRegularization", student, labels)
        # The logarithms of probabilities are logits of theirs: softened as every teacher's.
        rest = (1 - self.correct_probability) / (student.shape[1] - 1)
        virtual = torch.full_like(student, math.log(rest)).masked_fill(is_true, math.log(self.correct_probability))
        theirs = functional.log_softmax(virtual / self.temperature, dim=1)
        ours = functional.log_softmax(student / self.temperature, dim=1)
        return mean_of_labelled((theirs.exp() * (theirs - ours)).sum(1), known)

    def extra_repr(self) -> str:
        """Show the settings in `repr`, logs and model cards."""
        return f"correct_probability={self.correct_probability}, temperature={self.temperature}"
