"""What a distilled classifier is measured by, as ``evaluate`` metrics that need neither network nor cache files.

Importing ``evaluate`` takes several seconds, so this is the only module of the package that does it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import evaluate
import numpy as np
import pyarrow as pa
import torch
from datasets import Features, Sequence, Value
from numpy.typing import NDArray
from transformers import EvalPrediction

_CLASS = Value("int64")
_VECTOR = Sequence(Value("float32"))


class _InMemoryMetric(evaluate.Metric):
    """An ``evaluate.Metric`` that checks its inputs and keeps them in memory.

    Nothing is written to disk, so any number of instances and processes may measure at the same time. Every process
    measures what it was given; under several processes hand over gathered predictions, as ``Trainer`` does.
    """

    _description: str
    _inputs_description: str
    _features: Features
    _citation: str = ""

    def __init__(self) -> None:
        # The seed only keeps evaluate from reading numpy's global random state: no metric here draws numbers.
        super().__init__(keep_in_memory=True, seed=0)
        self._vector_lengths: dict[str, int] = {}

    def _info(self) -> Any:  # evaluate ships no types
        info = evaluate.MetricInfo(
            description=self._description,
            citation=self._citation,
            inputs_description=self._inputs_description,
            features=self._features,
        )
        # MetricInfo refuses this format for lists, but datasets supports it; python lists of the logits of a large
        # evaluation set would take eight times the memory.
        info.format = "numpy"
        return info

    def _build_data_dir(self) -> str:
        # evaluate makes a folder in the user's cache even for a metric that it keeps in memory.
        return ""

    def compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, float]:
        """Return the metric over all samples added since the last call, those given here included.

        Args:
            predictions: As for `add_batch`; leave out both to use only what was added.
            references: As for `add_batch`.
            **kwargs: Settings of the metric; an unknown one is an error.

        Returns:
            Name to value, as a python float.

        Raises:
            ValueError: If there is no sample, or as `add_batch` raises.
            TypeError: If a setting is unknown, or as `add_batch` raises.
        """
        if predictions is None and references is None and self.writer is None:
            raise ValueError(
                f"{type(self).__name__} has no samples to measure. Pass predictions and references to compute, or "
                "call add or add_batch first."
            )
        result: dict[str, float] = super().compute(predictions=predictions, references=references, **kwargs)
        return result

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Add one sample.

        Args:
            prediction: One entry of what `add_batch` takes.
            reference: One entry of what `add_batch` takes.
            **kwargs: The same under the names `predictions` and `references`, which `evaluate.combine` uses.

        Raises:
            ValueError: As `add_batch` raises.
            TypeError: As `add_batch` raises.
        """
        sample = {"predictions": prediction, "references": reference, **kwargs}
        self.add_batch(**{name: _to_numpy(name, value)[None] for name, value in sample.items()})

    def add_batch(self, *, predictions: Any = None, references: Any = None) -> None:
        """Add several samples. Sequences, numpy arrays and torch tensors of any device are taken.

        Args:
            predictions: One entry per sample.
            references: One entry per sample.

        Raises:
            ValueError: If there is no sample, a shape is wrong, or a value is not allowed.
            TypeError: If the values are of another kind than the metric takes.
        """
        given = {"predictions": predictions, "references": references}
        batch = {
            name: _vectors(name, given[name]) if isinstance(feature, Sequence) else _classes(name, given[name])
            for name, feature in self.features.items()
        }
        if len(batch["predictions"]) != len(batch["references"]):
            raise ValueError(
                f"{type(self).__name__} takes one reference per prediction, got {len(batch['predictions'])} "
                f"predictions and {len(batch['references'])} references."
            )
        self._check_batch(batch["predictions"], batch["references"])
        # As an arrow table, not through evaluate's add_batch: that turns every number into a python object, which
        # takes a hundred times as long (ten seconds and more for 50,000 samples of 1,000 logits).
        table = pa.table({name: _to_arrow(values) for name, values in batch.items()})
        lengths = {name: values.shape[1] for name, values in batch.items() if values.ndim == 2}
        if self.writer is None:
            self._vector_lengths = lengths
            self.selected_feature_format = self.features
            self._init_writer()
        elif lengths != self._vector_lengths:
            raise ValueError(
                f"Every sample needs vectors of one length, got {lengths} after {self._vector_lengths}. "
                "Use one metric per length."
            )
        self.writer.write_table(table)

    def _check_batch(self, predictions: NDArray[Any], references: NDArray[Any]) -> None:
        """Raise if the batch, whose types and lengths are right, cannot be measured."""


class Accuracy(_InMemoryMetric):
    """Share of samples whose predicted class is the labelled class.

    ``compute(predictions=..., references=...)`` takes the predicted and the labelled classes, integers of shape (N,),
    and returns ``{"accuracy": share}``.

    Raises:
        TypeError: If the classes are not integers (logits and probabilities need an argmax before).
        ValueError: If there is no sample, or the numbers of predictions and references differ.
    """

    _description = "Share of samples whose predicted class is the labelled class."
    _inputs_description = "\nInputs: predictions: predicted classes (N,), references: labelled classes (N,)."
    _features = Features({"predictions": _CLASS, "references": _CLASS})

    def _compute(self, predictions: NDArray[Any], references: NDArray[Any]) -> dict[str, float]:
        return {"accuracy": float(np.mean(predictions == references))}


class TopKAccuracy(_InMemoryMetric):
    """Share of samples whose labelled class is among the k classes of largest logit.

    ``compute(predictions=..., references=..., k=5)`` takes logits (N, K) and labelled classes (N,), integers in
    [0, K), and returns ``{"top_5_accuracy": share}``, named after k. Of equal logits the one of the lower class counts
    as the larger, so k = 1 is exactly the accuracy of ``argmax``, on every device.

    Raises:
        TypeError: If the logits are not numbers, the classes not integers, or k is not an int.
        ValueError: If k is below 1 or above K, a label is outside [0, K), a logit is NaN, the shapes do not match, or
            there is no sample.
    """

    _description = "Share of samples whose labelled class is among the k classes of largest logit."
    _inputs_description = "\nInputs: predictions: logits (N, K), references: labelled classes (N,), k: an int, 1 to K."
    _features = Features({"predictions": _VECTOR, "references": _CLASS})

    def _check_batch(self, predictions: NDArray[Any], references: NDArray[Any]) -> None:
        _check_labels(references, predictions.shape[1])

    def _compute(self, predictions: NDArray[Any], references: NDArray[Any], k: int = 5) -> dict[str, float]:
        classes = predictions.shape[1]
        _check_k("k", k, classes)
        labelled = np.take_along_axis(predictions, references[:, None], axis=1)
        tied_before = (predictions == labelled) & (np.arange(classes) < references[:, None])
        rank = np.count_nonzero((predictions > labelled) | tied_before, axis=1)
        return {f"top_{k}_accuracy": float(np.mean(rank < k))}


class TeacherAgreement(_InMemoryMetric):
    """Share of samples for which student and teacher predict the same class, whatever the label.

    ``compute(predictions=..., references=...)`` takes the student's and the teacher's classes, integers of shape (N,)
    in the same label space, and returns ``{"teacher_agreement": share}``.

    Raises:
        TypeError: If the classes are not integers (logits and probabilities need an argmax before).
        ValueError: If there is no sample, or the numbers of predictions and references differ.
    """

    _description = "Share of samples for which student and teacher predict the same class."
    _inputs_description = "\nInputs: predictions: the student's classes (N,), references: the teacher's classes (N,)."
    _features = Features({"predictions": _CLASS, "references": _CLASS})

    def _compute(self, predictions: NDArray[Any], references: NDArray[Any]) -> dict[str, float]:
        return {"teacher_agreement": float(np.mean(predictions == references))}


class BoundaryAgreement(_InMemoryMetric):
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
    """
    return _ClassificationMetrics(top_k)


class _ClassificationMetrics:
    """A class rather than a nested function, so that it can be pickled and can hold batches."""

    def __init__(self, top_k: int | None) -> None:
        if top_k is not None:
            _check_k("top_k", top_k, None)
        self.top_k = top_k
        self._collected: tuple[Accuracy, TopKAccuracy] | None = None

    def __call__(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        # Taken out here and put back last: an error below must not leave half an evaluation for the next one.
        accuracy, top_k_accuracy = self._collected or (Accuracy(), TopKAccuracy())
        self._collected = None

        logits = _vectors("predictions", _single("predictions", prediction.predictions))
        labels = _classes("label_ids", _single("label_ids", prediction.label_ids))
        _check_labels(labels, logits.shape[1])
        accuracy.add_batch(predictions=logits.argmax(1), references=labels)
        if self.top_k is not None:
            _check_k("top_k", self.top_k, logits.shape[1])
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


def _to_numpy(name: str, values: Any) -> NDArray[Any]:
    if values is None:
        raise ValueError(f"{name} is missing. Pass both predictions and references.")
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        # numpy has no bfloat16
        return np.asarray(values.float() if values.is_floating_point() else values)
    return np.asarray(values)


def _classes(name: str, values: Any) -> NDArray[np.int64]:
    """Return class indices as int64, shape (N,)."""
    array = _to_numpy(name, values)
    _check_shape(name, array, 1, "(N,)")
    if array.dtype.kind not in "biu":
        raise TypeError(
            f"{name} must be class indices (integers), got {array.dtype}. Take the argmax of logits or probabilities, "
            "and map names by the model's label2id."
        )
    return array.astype(np.int64)


def _vectors(name: str, values: Any) -> NDArray[np.float32]:
    """Return one vector per sample as float32, shape (N, D)."""
    array = _to_numpy(name, values)
    _check_shape(name, array, 2, "(N, D)")
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be numbers, got {array.dtype}.")
    if np.isnan(array).any():
        raise ValueError(
            f"{name} holds NaN in {int(np.isnan(array).any(1).sum())} of {len(array)} samples, so that no order and no "
            "side is defined. Look for a diverged training or an overflow in half precision."
        )
    return array.astype(np.float32, copy=False)


def _check_shape(name: str, array: NDArray[Any], dimensions: int, shape: str) -> None:
    if array.size == 0:
        raise ValueError(f"{name} is empty (shape {array.shape}); there must be at least one sample.")
    if array.ndim != dimensions:
        raise ValueError(f"{name} must have the shape {shape}, got {array.shape}. Reshape, e.g. with .flatten(1).")


def _check_labels(labels: NDArray[np.int64], classes: int) -> None:
    outside = labels[(labels < 0) | (labels >= classes)]
    if len(outside):
        raise ValueError(
            f"{len(outside)} labels are outside [0, {classes}), for example {outside[0]}, though the logits have "
            f"{classes} classes. Check num_labels of the model and leave out samples without a label."
        )


def _check_k(name: str, k: int, classes: int | None) -> None:
    if isinstance(k, bool) or not isinstance(k, int):
        raise TypeError(f"{name} must be an int, got {k!r}")
    if k < 1:
        raise ValueError(f"{name} must be at least 1, got {k}")
    if classes is not None and k > classes:
        raise ValueError(f"{name}={k} is more than the {classes} classes of the logits. Choose at most {classes}.")


def _to_arrow(values: NDArray[Any]) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    if values.size > np.iinfo(np.int32).max:
        raise ValueError(
            f"A batch may hold 2**31 - 1 numbers, got {values.shape}. Call add_batch with smaller batches."
        )
    ends = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(ends, np.ascontiguousarray(values).reshape(-1))
