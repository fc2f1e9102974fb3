"""Metrics of ``evaluate`` that need neither network nor cache files.

Importing ``evaluate`` takes several seconds, so this is the only module of the package that does it.
"""

from __future__ import annotations

from typing import Any

import evaluate
import numpy as np
import pyarrow as pa
from datasets import Features, Sequence
from numpy.typing import NDArray

from hf_abkd.reports.measured_arrays import class_indices, to_numpy, vectors


class InMemoryMetric(evaluate.Metric):
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
        self.add_batch(**{name: to_numpy(name, value)[None] for name, value in sample.items()})

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
            name: vectors(name, given[name]) if isinstance(feature, Sequence) else class_indices(name, given[name])
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
        table = pa.table({name: to_arrow(values) for name, values in batch.items()})
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


def to_arrow(values: NDArray[Any]) -> pa.Array:
    """Return numbers (N,) or vectors (N, D) as a column of an Arrow table.

    Raises:
        ValueError: If Arrow cannot count that many.
    """
    if values.ndim == 1:
        return pa.array(values)
    if values.size > np.iinfo(np.int32).max:
        raise ValueError(
            f"A batch may hold 2**31 - 1 numbers, got {values.shape}. Call add_batch with smaller batches."
        )
    ends = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(ends, np.ascontiguousarray(values).reshape(-1))
