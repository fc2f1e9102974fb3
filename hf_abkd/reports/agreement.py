"""Agreement: how far a model says of images what its teacher says, right or wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from hf_abkd.reports.intervals import Share, share
from hf_abkd.reports.metrics import TopKAccuracy

_TOP = 5


@dataclass(frozen=True)
class Agreement:
    """How far a model agrees with its teacher.

    Attributes:
        top_1: The share of images to which both give one class.
        top_5: The share of images on which the teacher's class is among the five most likely ones of the model; None
            of five classes or fewer, where it always is, and where only the classes that were said are known.
        divergence: The mean Kullback-Leibler divergence of the model's probabilities from the teacher's, in nats: sum
            p_T log(p_T / p). 0 where they are equal; None where only the classes that were said are known.
    """

    top_1: Share
    top_5: float | None
    divergence: float | None


def agreement(logits: NDArray[np.float32], teacher: NDArray[np.float32]) -> Agreement:
    """Return how far a model agrees with its teacher.

    Args:
        logits: What the model says, (N, K); -inf for classes that it does not know.
        teacher: What the teacher says of the same images and classes, likewise.

    Raises:
        ValueError: If the two have other shapes.

    Example:
        >>> said = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]], np.float32))
        >>> agreement(said, said[:, ::-1]).top_1.value
        0.5
    """
    if logits.shape != teacher.shape or logits.ndim != 2:
        raise ValueError(f"both say something of the same images and classes, got {logits.shape} and {teacher.shape}")
    said = teacher.argmax(1)
    top_5 = None
    if logits.shape[1] > _TOP:
        top_5 = TopKAccuracy().compute(predictions=logits, references=said, k=_TOP)[f"top_{_TOP}_accuracy"]
    # Probabilities are compared over the classes that both know.
    known = np.isfinite(logits[0]) & np.isfinite(teacher[0])
    ours, theirs = (special.log_softmax(one[:, known], axis=1) for one in (logits, teacher))
    apart = (np.exp(theirs) * (theirs - ours)).sum(1)
    return Agreement(share(logits.argmax(1) == said), top_5, float(apart.mean(dtype=np.float64)))
