"""What several models say of the same images, in the classes of the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from hf_abkd.cli.asking import AskedModel, Asking
from hf_abkd.data.corruptions import Corruption
from hf_abkd.models.label_spaces import LabelMatch, id2label_of, label_match, match_labels
from hf_abkd.teachers.class_order import decided_order, shown


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model says of each image.

    Attributes:
        logits: The logits of the classes of the first model, (N, K); -inf where it does not know a class.
        truth: The labels by the numbers of the first model, (N,); -1 for classes that it does not know.
        match: Which of the model's classes are those of the first; None of the first itself.
        classes: The class that it says, (N,).
        right: Whether that is the label, (N,).
    """

    logits: NDArray[np.float32]
    truth: NDArray[np.int64]
    match: LabelMatch | None = None
    classes: NDArray[np.int64] = field(init=False)
    right: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        """Find what is said, and whether it is right."""
        object.__setattr__(self, "classes", self.logits.argmax(1))
        object.__setattr__(self, "right", self.classes == self.truth)

    def confidences(self) -> NDArray[np.floating]:
        """Return the probability of the class that it says, (N,)."""
        probabilities: NDArray[np.floating] = special.softmax(self.logits, axis=1)
        confidences: NDArray[np.floating] = probabilities.max(1)
        return confidences


def answers_of(models: Sequence[AskedModel], asking: Asking) -> list[Answers | None]:
    """Return what models say of images; None for one that shares no classes with the first.

    The first model chooses among all classes it knows, and an image whose class it does not know counts as wrong. The
    others choose among the classes of the first, as in the trainer, where a teacher of a thousand classes teaches ten.

    Args:
        models: The models.
        asking: The images, and how models are asked about them.

    Raises:
        ValueError: If the first model predicts other classes than the images have, or which is which is unknown.
    """
    first, *others = models
    labels = torch.from_numpy(asking.labels())
    logits = asking.logits(first)
    truth = _in_classes_of(first, logits, labels, asking.images.labels)
    found: list[Answers | None] = [Answers(logits.numpy(), truth.numpy())]
    classes = logits.shape[1]
    for other in others:
        logits = asking.logits(other)
        match = label_match(first.model, other.model, classes, logits.shape[1])
        known = truth >= 0
        match = decided_order(match, truth[known], logits.argmax(1)[known])
        shares = match.is_comparable and match.alternative is None
        in_first = match.teacher_in_student_space(logits).numpy() if shares else None
        found.append(None if in_first is None else Answers(in_first, truth.numpy(), match))
    return found


def right_when_corrupted(
    models: Sequence[AskedModel], found: Sequence[Answers | None], asking: Asking, corruption: Corruption
) -> list[NDArray[np.bool_] | None]:
    """Return whether models are right about images that are corrupted, (N,) each; None where there are no answers.

    Args:
        models: The models.
        found: What they say of the images as they are.
        asking: The images, and how models are asked about them.
        corruption: What is done to the images.
    """
    hits: list[NDArray[np.bool_] | None] = []
    for asked, clean in zip(models, found, strict=True):
        if clean is None:
            hits.append(None)
            continue
        # Which classes are which is known from the images as they are, where a model still sees something.
        logits = asking.logits(asked, corruption)
        logits = logits if clean.match is None else clean.match.teacher_in_student_space(logits)
        hits.append(logits.numpy().argmax(1) == clean.truth)
    return hits


def _in_classes_of(asked: AskedModel, logits: Tensor, truth: Tensor, labels: Sequence[str]) -> Tensor:
    """Return the labels of images as a model numbers its classes, (N,); -1 where it does not know the class.

    Raises:
        ValueError: If it knows fewer than two of them, or it is not known which is which.
    """
    names = id2label_of(asked.model)
    match = decided_order(
        match_labels(dict(enumerate(labels)), names, len(labels), logits.shape[1]), truth, logits.argmax(1)
    )
    if not match.is_comparable or match.alternative is not None:
        raise ValueError(
            f"which classes of the {asked.role} {asked.name} are those of the images is not known: the images have "
            f"{shown(labels)}, and the {asked.role} {logits.shape[1]} classes, {shown(match.teacher_names)}. Write the "
            "names of the images' classes into `id2label` of its config.json"
        )
    numbers = torch.full((len(labels),), -1)
    numbers[list(match.student_classes)] = torch.tensor(match.teacher_classes)
    return numbers[truth]
