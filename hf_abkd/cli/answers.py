"""What several models say of the same images, each through its own image processor, in the classes of the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import BaseImageProcessor

from hf_abkd.data.evaluated import EvaluatedImages
from hf_abkd.data.transform import ImageTransform, prepare
from hf_abkd.models.expected_images import PIXELS, channels_of
from hf_abkd.models.label_spaces import id2label_of, label_match, match_labels
from hf_abkd.teachers.cache.teacher_images import batches_of
from hf_abkd.teachers.class_order import decided_order, shown
from hf_abkd.teachers.live import LiveTeacher
from hf_abkd.terminal import bars_are_seen

# What takes longer has a bar, in seconds.
_PATIENCE = 3


@dataclass(frozen=True)
class AskedModel:
    """A model that is asked.

    Args:
        role: What it is: "student", "teacher", "baseline".
        name: Where it comes from.
        model: The model, in evaluation mode.
        processor: Its image processor.
    """

    role: str
    name: str
    model: Any
    processor: BaseImageProcessor

    @property
    def parameters(self) -> int:
        """How many parameters it has."""
        return sum(parameter.numel() for parameter in self.model.parameters())


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model says of each image.

    Attributes:
        classes: The class, by the numbers of the first model, (N,).
        right: Whether that is the label, (N,).
    """

    classes: NDArray[np.int64]
    right: NDArray[np.bool_]


def answers_of(
    models: Sequence[AskedModel],
    images: EvaluatedImages,
    *,
    image_column: str = "image",
    label_column: str = "label",
    batch_size: int = 64,
    device: torch.device | str = "cpu",
) -> list[Answers | None]:
    """Return what models say of images; None for one that shares no classes with the first.

    The first model chooses among all classes it knows, and an image whose class it does not know counts as wrong. The
    others choose among the classes of the first, as in the trainer, where a teacher of a thousand classes teaches ten.

    Args:
        models: The models.
        images: The images with their labels.
        image_column: The column with the images.
        label_column: The column with the labels.
        batch_size: How many images a model sees at once.
        device: Where the models run.

    Raises:
        ValueError: If the first model predicts other classes than the images have, or which is which is unknown.
    """
    first, *others = models
    labels = images.rows.with_format("arrow")[:][label_column].to_pylist()
    missing = sum(label is None or label < 0 for label in labels)
    if missing:
        raise ValueError(f"{missing:,} of {len(labels):,} images have no label, and nothing can be right on them")
    asked: dict[str, Any] = {
        "image_column": image_column,
        "label_column": label_column,
        "batch_size": batch_size,
        "device": device,
    }
    logits = _logits(first, images, **asked)
    truth = _in_classes_of(first, logits, torch.tensor(labels), images.labels)
    found: list[Answers | None] = [_answers(logits.argmax(1), truth)]
    classes = logits.shape[1]
    for other in others:
        logits = _logits(other, images, **asked)
        match = label_match(first.model, other.model, classes, logits.shape[1])
        known = truth >= 0
        match = decided_order(match, truth[known], logits.argmax(1)[known])
        shares = match.is_comparable and match.alternative is None
        found.append(_answers(match.teacher_in_student_space(logits).argmax(1), truth) if shares else None)
    return found


def _logits(
    asked: AskedModel,
    images: EvaluatedImages,
    *,
    image_column: str,
    label_column: str,
    batch_size: int,
    device: torch.device | str,
) -> Tensor:
    """Return what a model says of all images, (N, K), on the CPU."""
    channels = channels_of(getattr(asked.model, "config", None)) or 3
    transform = ImageTransform(
        asked.processor, image_column=image_column, label_column=label_column, num_channels=channels
    )
    model: nn.Module = asked.model.to(device)
    runner, said = LiveTeacher(model), []
    batches = batches_of(prepare(images.rows, transform), range(len(images.rows)), batch_size)
    with torch.no_grad():
        for batch in tqdm(batches, desc=asked.role, leave=False, delay=_PATIENCE, disable=not bars_are_seen()):
            said.append(runner.logits({PIXELS: batch[PIXELS].to(device)}).float().cpu())
    asked.model.cpu()
    return torch.cat(said)


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


def _answers(said: Tensor, truth: Tensor) -> Answers:
    return Answers(said.numpy(), (said == truth).numpy())
