"""Measuring: what each form of a student costs and says, beside the student itself and on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hf_abkd.export.deviation import Deviation
from hf_abkd.export.runners import Runner
from hf_abkd.export.some_images import labelled_batches
from hf_abkd.models.latency import Latency, latencies
from hf_abkd.reports.intervals import PairedDifference, Share, paired_difference, share

#: How many images are given at once where it is measured how long they take.
BATCH_SIZES = (1, 32)


@dataclass(frozen=True)
class Candidate:
    """A form of the student that can be run; the first of several is the student itself.

    Args:
        name: What it is called in the table.
        run: How it is run.
        bytes: How many its weights take on the disk; None if that is not known.
        deviation: How far it is from the student; None of the student itself.
    """

    name: str
    run: Runner
    bytes: int | None
    deviation: Deviation | None = None


@dataclass(frozen=True)
class Row:
    """What was measured of a form.

    Attributes:
        name: What it is called.
        bytes: How many its weights take on the disk; None if that is not known.
        deviation: How far it is from the student; None of the student itself.
        accuracy: The share of images that it is right about; None where no images were given.
        difference: To the student, image by image; None of the student itself, or without images.
        latencies: How long it takes, by the size of the batch.
    """

    name: str
    bytes: int | None
    deviation: Deviation | None
    accuracy: Share | None
    difference: PairedDifference | None
    latencies: tuple[Latency, ...]


def measured(candidates: Sequence[Candidate], pixels: Tensor, eval_dataset: Any | None) -> list[Row]:
    """Return what each form costs and says.

    Args:
        candidates: The student and its forms.
        pixels: Some images to time them on, (N, C, H, W).
        eval_dataset: Prepared images with labels to be right about; None if there are none.
    """
    times: list[list[Latency]] = []
    for size in BATCH_SIZES:
        batch = pixels[torch.arange(size) % len(pixels)].contiguous()
        times.append(latencies([partial(each.run, batch) for each in candidates], size))
    right = [None if eval_dataset is None else _right(each, eval_dataset) for each in candidates]
    return [
        Row(
            name=each.name,
            bytes=each.bytes,
            deviation=each.deviation,
            accuracy=None if hits is None else share(hits),
            difference=_difference(hits, right[0]) if each.deviation is not None else None,
            latencies=tuple(of_size[place] for of_size in times),
        )
        for place, (each, hits) in enumerate(zip(candidates, right, strict=True))
    ]


def _right(candidate: Candidate, eval_dataset: Any) -> NDArray[np.bool_]:
    batches = labelled_batches(eval_dataset, candidate.name)
    return np.concatenate([(candidate.run(pixels).argmax(1) == labels).numpy() for pixels, labels in batches])


def _difference(ones: NDArray[np.bool_] | None, others: NDArray[np.bool_] | None) -> PairedDifference | None:
    return None if ones is None or others is None else paired_difference(ones, others)
