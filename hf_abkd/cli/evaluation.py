"""Evaluating models: all that is measured of them, one kind of number after the other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hf_abkd.cli.answers import Answers, answers_of, right_when_corrupted
from hf_abkd.cli.asking import AskedModel, Asking
from hf_abkd.cli.boundary_pairs import paired_boundaries
from hf_abkd.data.corruptions import Corruption
from hf_abkd.layers.plan import Plan
from hf_abkd.models.costs import cost_of
from hf_abkd.models.expected_images import PIXELS
from hf_abkd.models.latency import Latency, latencies
from hf_abkd.models.machine import this_machine
from hf_abkd.models.stored_size import stored_bytes
from hf_abkd.reports.agreement import agreement
from hf_abkd.reports.evaluation import Against, Boundaries, Evaluation, ModelEvaluation
from hf_abkd.reports.intervals import share
from hf_abkd.reports.judging import against, judged
from hf_abkd.teachers.live import LiveTeacher


def evaluation_of(
    models: Sequence[AskedModel],
    asking: Asking,
    *,
    corruptions: Sequence[Corruption] = (),
    boundary_images: int = 0,
    plan: Plan | None = None,
    batch_sizes: Sequence[int] = (),
    cache_dir: str | None = None,
) -> Evaluation:
    """Measure models.

    Args:
        models: The models, the student first.
        asking: The images, and how models are asked about them.
        corruptions: What the images are also corrupted by.
        boundary_images: On how many images boundaries are compared; 0 for not at all.
        plan: The pairs of layers whose boundaries are compared; None to propose them.
        batch_sizes: The sizes of the batches that are timed; none for no times.
        cache_dir: Where downloads are kept.

    Raises:
        ValueError: If the student predicts other classes than the images have, or layers cannot be paired as planned.
    """
    labels = asking.labels()
    found = answers_of(models, asking)
    hits = {one.name: right_when_corrupted(models, found, asking, one) for one in corruptions}
    boundaries = _boundaries(models, asking, plan, boundary_images)
    multiply_adds = [_multiply_adds(asked, asking) for asked in models]
    times = [_latencies(models, asking, size) for size in batch_sizes]
    teacher = next((one for asked, one in zip(models, found, strict=True) if asked.role == "teacher"), None)
    names = asking.images.labels
    measured = [
        ModelEvaluation(
            asked.role,
            asked.name,
            asked.parameters,
            multiply_adds=multiply_adds[number],
            weight_bytes=stored_bytes(asked.name, cache_dir=cache_dir),
            corrupted={name: None if (one := right[number]) is None else share(one) for name, right in hits.items()},
            latencies=[each[number] for each in times],
            **({} if answers is None else _told(answers, teacher, labels, len(names))),
        )
        for number, (asked, answers) in enumerate(zip(models, found, strict=True))
    ]
    return Evaluation(
        asking.images.name,
        len(labels),
        names,
        np.bincount(labels, minlength=len(names)).tolist(),
        measured,
        _against(models, found, labels),
        boundaries,
        this_machine() if times else None,
    )


def _told(answers: Answers, teacher: Answers | None, labels: NDArray[np.int64], classes: int) -> dict[str, Any]:
    """Return what the answers of a model tell, by the names of `ModelEvaluation`."""
    agreed = None if teacher is None or teacher is answers else agreement(answers.logits, teacher.logits)
    return {**judged(labels, answers.right, answers.confidences(), classes), "agreement": agreed}


def _against(models: Sequence[AskedModel], found: Sequence[Answers | None], labels: NDArray[np.int64]) -> list[Against]:
    """Return the student against each of the others."""
    student, compared = found[0], []
    for asked, answers in zip(models[1:], found[1:], strict=True):
        if student is not None and answers is not None:
            compared.append(against(asked.role, asked.name, labels, student.right, answers.right))
    return compared


def _boundaries(models: Sequence[AskedModel], asking: Asking, plan: Plan | None, images: int) -> Boundaries | None:
    """Compare the boundaries of student and teacher; None without a teacher, or on no images."""
    teacher = next((asked for asked in models if asked.role == "teacher"), None)
    if teacher is None or not images:
        return None
    images = min(images, len(asking.images.rows))
    try:
        return Boundaries(images, paired_boundaries(models[0], teacher, asking, plan=plan, images=images))
    except ValueError as error:
        # Nobody asked for these pairs, and all else can be told.
        if plan is not None:
            raise
        return Boundaries(images, why_not=str(error))


def _multiply_adds(asked: AskedModel, asking: Asking) -> int | None:
    """Return how many multiply-adds a model takes for an image; None if its layers do not show it."""
    model = asked.model.to(asking.device)
    pixels, runner = next(asking.pixels(asked, [0], 1)), LiveTeacher(model)
    with torch.no_grad():
        cost = cost_of(model, partial(runner.logits, {PIXELS: pixels}))
    model.cpu()
    return None if cost is None else cost.multiplications


def _latencies(models: Sequence[AskedModel], asking: Asking, batch_size: int) -> list[Latency]:
    """Time all models in turns on one batch of images, which is prepared for each of them before."""
    places = [number % len(asking.images.rows) for number in range(batch_size)]
    runs = []
    for asked in models:
        pixels, runner = next(asking.pixels(asked, places, batch_size)), LiveTeacher(asked.model.to(asking.device))
        runs.append(runner.bare_run({PIXELS: pixels}))
    on_gpu = torch.device(asking.device).type == "cuda"
    with torch.inference_mode():
        timed = latencies(runs, batch_size, finish=torch.cuda.synchronize if on_gpu else lambda: None)
    for asked in models:
        asked.model.cpu()
    return timed
