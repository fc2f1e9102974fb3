"""Cross-entropy with the class labels."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from hf_abkd.objectives.objective import Objective
from hf_abkd.settings import number


class CrossEntropy(Objective):
    """Predict the label.

    Requirements: the student's logits and labels; no teacher. A sample with the label -100 has none and is left out:
        the mean is over the samples of the batch that have a label, and 0 where none has. With gradient accumulation
        and several processes each batch is a mean of its own, and the step takes the mean of these.
    Relations: the task itself, which usually stands beside what is learnt from a teacher, such as
        `KnowledgeDistillation`. Alone it is plain fine-tuning.
    Shapes: student (N, K), logits; labels (N,), integers in [0, K) or -100; returns ().

    Args:
        label_smoothing: Share of the target spread evenly over the classes, in [0, 1). None follows the training
            argument `label_smoothing_factor`.

    Raises:
        ValueError: If `label_smoothing` is outside [0, 1).
        TypeError: If the labels of a batch are not integers of shape (N,).

    Example:
        >>> import torch
        >>> from hf_abkd.objectives import CrossEntropy
        >>> value = CrossEntropy()(torch.zeros(2, 4), torch.tensor([3, 0]))
        >>> round(value.item(), 3)
        1.386
    """

    needs: ClassVar[AbstractSet[str]] = frozenset({"labels"})
    follows: ClassVar[Mapping[str, str]] = {"label_smoothing": "label_smoothing_factor"}

    def __init__(self, *, label_smoothing: float | None = None) -> None:
        super().__init__()
        given = label_smoothing is not None
        self.label_smoothing = number("label_smoothing", label_smoothing, least=0, below=1) if given else None

    def forward(self, student: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy averaged over the samples that have a label, shape ()."""
        if labels.is_floating_point() or labels.ndim != 1:
            raise TypeError(
                f"CrossEntropy needs one integer class per sample, shape ({student.shape[0]},); got labels of shape "
                f"{tuple(labels.shape)} and type {labels.dtype}. Multi-label targets are not supported."
            )
        # Divided here: of a batch without a label the built-in mean is not a number.
        total = functional.cross_entropy(student, labels, label_smoothing=self.label_smoothing or 0.0, reduction="sum")
        return total / (labels != -100).sum().clamp(min=1)

    def extra_repr(self) -> str:
        """Show the settings in `repr`, logs and model cards."""
        return f"label_smoothing={self.label_smoothing or 0.0}"
