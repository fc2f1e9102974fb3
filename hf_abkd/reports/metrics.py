"""What a student is measured by: its accuracy, and how far it agrees with its teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from datasets import Features, Sequence, Value
from numpy.typing import NDArray
from transformers import EvalPrediction

from hf_abkd.models.tasks.image_classification import IMAGE_CLASSIFICATION
from hf_abkd.reports.in_memory_metric import InMemoryMetric
from hf_abkd.reports.measured_arrays import check_k, check_labels, class_indices, vectors

_CLASS = Value("int64")
_VECTOR = Sequence(Value("float32"))


class Accuracy(InMemoryMetric):
    """Share of samples whose predicted class is the labelled class.

    ``compute(predictions=..., references=...)`` takes the predicted and the labelled classes, integers of shape (N,),
    and returns ``{"accuracy": share}``.

    Raises:
        TypeError: If the classes are not integers (logits and probabilities need an argmax before).
        ValueError: If there is no sample, or the numbers of predictions and references differ.

    Example:
        >>> Accuracy().compute(predictions=[0, 1, 2, 2], references=[0, 1, 1, 2])
        {'accuracy': 0.75}
    """

    _description = "Share of samples whose predicted class is the labelled class."
    _inputs_description = "\nInputs: predictions: predicted classes (N,), references: labelled classes (N,)."
    _features = Features({"predictions": _CLASS, "references": _CLASS})

    def _compute(self, predictions: NDArray[Any], references: NDArray[Any]) -> dict[str, float]:
        return {"accuracy": float(np.mean(predictions == references))}


class TopKAccuracy(InMemoryMetric):
    """Share of samples whose labelled class is among the k classes of largest logit.

    ``compute(predictions=..., references=..., k=5)`` takes logits (N, K) and labelled classes (N,), integers in
    [0, K), and returns ``{"top_5_accuracy": share}``, named after k. Of equal logits the one of the lower class counts
    as the larger, so k = 1 is exactly the accuracy of ``argmax``, on every device.

    Raises:
        TypeError: If the logits are not numbers, the classes not integers, or k is not an int.
        ValueError: If k is below 1 or above K, a label is outside [0, K), a logit is NaN, the shapes do not match, or
            there is no sample.

    Example:
        >>> TopKAccuracy().compute(predictions=[[0.1, 0.7, 0.2], [0.9, 0.0, 0.1]], references=[2, 1], k=2)
        {'top_2_accuracy': 0.5}
    """

    _description = "Share of samples whose labelled class is among the k classes of largest logit."
    _inputs_description = "\nInputs: predictions: logits (N, K), references: labelled classes (N,), k: an int, 1 to K."
    _features = Features({"predictions": _VECTOR, "references": _CLASS})

    def _check_batch(self, predictions: NDArray[Any], references: NDArray[Any]) -> None:
        check_labels(references, predictions.shape[1])

    def _compute(self, predictions: NDArray[Any], references: NDArray[Any], k: int = 5) -> dict[str, float]:
        classes = predictions.shape[1]
        check_k("k", k, classes)
        labelled = np.take_along_axis(predictions, references[:, None], axis=1)
        tied_before = (predictions == labelled) & (np.arange(classes) < references[:, None])
        rank = np.count_nonzero((predictions > labelled) | tied_before, axis=1)
        return {f"top_{k}_accuracy": float(np.mean(rank < k))}


class TeacherAgreement(InMemoryMetric):
    """Share of samples for which student and teacher predict the same class, whatever the label.

    ``compute(predictions=..., references=...)`` takes the student's and the teacher's classes, integers of shape (N,)
    in the same label space, and returns ``{"teacher_agreement": share}``.

    Raises:
        TypeError: If the classes are not integers (logits and probabilities need an argmax before).
        ValueError: If there is no sample, or the numbers of predictions and references differ.

    Example:
        >>> TeacherAgreement().compute(predictions=[0, 1, 2, 2], references=[0, 1, 1, 2])
        {'teacher_agreement': 0.75}
    """

    _description = "Share of samples for which student and teacher predict the same class."
    _inputs_description = "\nInputs: predictions: the student's classes (N,), references: the teacher's classes (N,)."
    _features = Features({"predictions": _CLASS, "references": _CLASS})

    def _compute(self, predictions: NDArray[Any], references: NDArray[Any]) -> dict[str, float]:
        return {"teacher_agreement": float(np.mean(predictions == references))}


class BoundaryAgreement(InMemoryMetric):
    """Share of neurons that student and teacher place on the same side of the activation boundary.

    ``compute(predictions=..., references=...)`` takes the student's and the teacher's values before the activation,
    both (N, D) and paired neuron by neuron, and returns ``{"boundary_agreement": share}``. A neuron is on where its
    value is above zero, so exactly zero is off, for both. The share is one minus the mean of the exclusive or of the
    two patterns, which is what activation boundary transfer minimises.

    All values are kept in memory, 8 * N * D bytes and as much again in `compute`: measure one layer at a time and,
    if need be, a part of the samples.

    Paper: Heo et al., AAAI 2019, https://huggingface.co/papers/1811.03233

    Raises:
        TypeError: If the values are not numbers.
        ValueError: If a value is NaN, the shapes differ or are not (N, D), or there is no sample.

    Example:
        >>> BoundaryAgreement().compute(predictions=[[1.0, -2.0, 0.5, 0.0]], references=[[3.0, -1.0, -0.5, -4.0]])
        {'boundary_agreement': 0.75}
    """

    _description = "Share of neurons that student and teacher place on the same side of the activation boundary."
    _inputs_description = (
        "\nInputs: predictions: the student's pre-activations (N, D), references: the teacher's pre-activations (N, D)."
    )
    _features = Features({"predictions": _VECTOR, "references": _VECTOR})
    _citation = "Heo et al., AAAI 2019, arXiv:1811.03233"

    def _check_batch(self, predictions: NDArray[Any], references: NDArray[Any]) -> None:
        if predictions.shape != references.shape:
            raise ValueError(
                f"BoundaryAgreement compares neuron by neuron, got {predictions.shape[1]} student and "
                f"{references.shape[1]} teacher values per sample. Pass the student's values after the connector."
            )

    def _compute(self, predictions: NDArray[Any], references: NDArray[Any]) -> dict[str, float]:
        return {"boundary_agreement": float(np.mean((predictions > 0) == (references > 0)))}


def classification_metrics(top_k: int | None = None) -> Callable[..., dict[str, float]]:
    """Return a `compute_metrics` for ``Trainer`` that measures a classifier.

    It takes ``(prediction: EvalPrediction, compute_result: bool = True)``, logits (N, K) and labels (N,), and returns
    ``{"accuracy": ...}`` and, with `top_k`, ``{"top_5_accuracy": ...}`` named after it. Under ``Trainer``'s
    ``batch_eval_metrics=True`` it collects the batches until ``compute_result`` is true and then starts afresh.
    It can be pickled; batches that wait for a result are not part of the pickle. After an evaluation that was
    interrupted between two batches make a new one: nothing tells it that the next batch starts another evaluation.

    Args:
        top_k: How many classes may be named for the labelled one to count as found; None for accuracy alone.

    Raises:
        TypeError: If `top_k` is not an int or None. The callable raises it if labels are not integers.
        ValueError: If `top_k` is below 1. The callable raises it if the predictions are not one array (N, K), a logit
            is NaN, a label is outside [0, K), or `top_k` is above K.

    Example:
        >>> import numpy as np
        >>> from transformers import EvalPrediction
        >>> measure = classification_metrics(top_k=2)
        >>> logits, labels = np.array([[0.1, 0.7, 0.2], [0.9, 0.0, 0.1]]), np.array([2, 0])
        >>> measure(EvalPrediction(predictions=logits, label_ids=labels))
        {'accuracy': 0.5, 'top_2_accuracy': 1.0}
    """
    return _ClassificationMetrics(top_k)


class _ClassificationMetrics:
    """A class rather than a nested function, so that it can be pickled and can hold batches."""

    def __init__(self, top_k: int | None) -> None:
        if top_k is not None:
            check_k("top_k", top_k, None)
        self.top_k = top_k
        self._collected: tuple[Accuracy, TopKAccuracy] | None = None

    def __call__(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        # Taken out here and put back last: an error below must not leave half an evaluation for the next one.
        accuracy, top_k_accuracy = self._collected or (Accuracy(), TopKAccuracy())
        self._collected = None

        logits = vectors("predictions", _single("predictions", prediction.predictions))
        labels = class_indices("label_ids", _single("label_ids", prediction.label_ids))
        check_labels(labels, logits.shape[1])
        accuracy.add_batch(predictions=logits.argmax(1), references=labels)
        if self.top_k is not None:
            check_k("top_k", self.top_k, logits.shape[1])
            top_k_accuracy.add_batch(predictions=logits, references=labels)

        if not compute_result:
            self._collected = (accuracy, top_k_accuracy)
            return {}
        result = accuracy.compute()
        if self.top_k is not None:
            result |= top_k_accuracy.compute(k=self.top_k)
        return result

    def __reduce__(self) -> tuple[type[_ClassificationMetrics], tuple[int | None]]:
        return type(self), (self.top_k,)

    def __repr__(self) -> str:
        return f"classification_metrics(top_k={self.top_k})"


def _single(name: str, values: Any) -> Any:
    """Return the values if they are one array: a tuple would be read as a batch of its parts."""
    if isinstance(values, (np.ndarray, torch.Tensor)):
        return values
    given = f"a {type(values).__name__} of {len(values)} parts" if isinstance(values, (tuple, list)) else repr(values)
    raise ValueError(
        f"{name} must be one array, got {given}. Let the model return only its logits in evaluation, or pick them "
        "with Trainer's preprocess_logits_for_metrics; name only the class labels in label_names."
    )


#: What makes the `compute_metrics` of a task, by the task's name. Each returns the task's `score` and more.
METRICS: dict[str, Callable[..., Callable[..., dict[str, float]]]] = {
    IMAGE_CLASSIFICATION.name: classification_metrics,
}
