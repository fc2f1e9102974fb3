"""What a set of labelled images is worth for teaching, in a few numbers that need no other images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from PIL import Image as PILImage
from torch import Tensor, nn
from transformers import BaseImageProcessor

from hf_abkd.methods.deep_inversion.norm_statistics import NormStatistics
from hf_abkd.models.expected_images import PIXELS
from hf_abkd.models.kept_state import evaluating, frozen
from hf_abkd.models.label_spaces import label_match
from hf_abkd.teachers.live import LiveTeacher


@dataclass(frozen=True)
class Quality:
    """What images are like, seen through the image processor of the teacher: after rounding to 8 bits.

    Attributes:
        images: How many.
        classes: How many classes have an image.
        teacher_accuracy: Share of the images of which the teacher says the label.
        teacher_confidence: Mean of the teacher's probability of the label.
        r_feature: Mean over batches of the summed distances to the teacher's BatchNorm statistics. It depends on how
            many images a batch has, so compare it at one size.
        diversity: How different images of one class are to the teacher: the root of the mean variance of a feature
            within a class. Features are the inputs of the last BatchNorm, averaged over positions, in units of the
            deviation that the layer knows; 0 for copies of one image. None if no class has two images.
        verifier_accuracy: Share of the images of which an independent model says the label; None without one.
    """

    images: int
    classes: int
    teacher_accuracy: float
    teacher_confidence: float
    r_feature: float
    diversity: float | None
    verifier_accuracy: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the numbers by their names."""
        return asdict(self)


def measure_quality(
    teacher: nn.Module,
    processor: BaseImageProcessor,
    batches: Iterable[tuple[Sequence[PILImage.Image], Sequence[int]]],
    *,
    verifier: nn.Module | None = None,
    verifier_processor: BaseImageProcessor | None = None,
) -> Quality:
    """Return what images are like to a teacher, of any origin: synthesised, real, or noise.

    Args:
        teacher: A classifier with BatchNorm statistics.
        processor: Its image processor.
        batches: Images and labels (indices of the teacher's classes), batch by batch.
        verifier: Another model that classifies the images.
        verifier_processor: Its processor; by default the teacher's.

    Raises:
        ValueError: If the teacher has no BatchNorm statistics, there are no images, or the verifier knows other
            classes.
    """
    taught = Understanding(teacher, processor)
    other = None if verifier is None else Understanding(verifier, verifier_processor or processor)
    count, right, verified, confidence = 0, 0, 0, 0.0
    distances, features_by_class = [], _FeaturesByClass()
    with NormStatistics(teacher) as statistics, evaluating(teacher), torch.no_grad():
        for images, labels in batches:
            truth = torch.tensor(labels)
            logits = taught.logits(images)
            features_by_class.add(statistics.features().cpu().double(), truth, logits.shape[1])
            distances.append(statistics.take().sum().item())
            count += len(truth)
            right += int((logits.argmax(1) == truth).sum())
            confidence += logits.softmax(1).gather(1, truth[:, None]).sum().item()
            if other is not None:
                verdict = other.logits(images)
                match = label_match(teacher, other.model, logits.shape[1], verdict.shape[1])
                verified += int((match.teacher_in_student_space(verdict).argmax(1) == truth).sum())
    if not count:
        raise ValueError("there are no images to measure")
    return Quality(
        images=count,
        classes=features_by_class.classes(),
        teacher_accuracy=right / count,
        teacher_confidence=confidence / count,
        r_feature=sum(distances) / len(distances),
        diversity=features_by_class.deviation(),
        verifier_accuracy=None if other is None else verified / count,
    )


class Understanding:
    """A model and its processor: images in, logits out, on the CPU in float32."""

    def __init__(self, model: nn.Module, processor: BaseImageProcessor) -> None:
        self.model, self.processor = model, processor
        self._device = next((p.device for p in model.parameters()), torch.device("cpu"))

    def logits(self, images: Sequence[PILImage.Image]) -> Tensor:
        """Return the logits of some images, (N, K); the model is put back into its mode."""
        pixels = self.processor(list(images), return_tensors="pt")[PIXELS].to(self._device)
        with frozen(self.model), torch.no_grad():
            return LiveTeacher(self.model).logits({PIXELS: pixels}).float().cpu()


class _FeaturesByClass:
    """How many features of each class there were, their sums and the sums of their squares."""

    def __init__(self) -> None:
        self._counts = self._sums = self._squares = torch.zeros(0)

    def add(self, features: Tensor, labels: Tensor, classes: int) -> None:
        """Add the features of some images, (N, C), with their labels, (N,)."""
        if not len(self._counts):
            self._counts = torch.zeros(classes, dtype=torch.float64)
            self._sums, self._squares = torch.zeros(2, classes, features.shape[1], dtype=torch.float64)
        self._counts.index_add_(0, labels, torch.ones(len(labels), dtype=torch.float64))
        self._sums.index_add_(0, labels, features)
        self._squares.index_add_(0, labels, features.square())

    def classes(self) -> int:
        """Return how many classes have an image."""
        return int((self._counts > 0).sum())

    def deviation(self) -> float | None:
        """Return the root of the mean variance within a class; None if no class has two images."""
        several = self._counts > 1
        if not several.any():
            return None
        count = self._counts[several, None]
        variance = (self._squares[several] - self._sums[several].square() / count) / (count - 1)
        return float(variance.clamp(min=0).mean().sqrt())
