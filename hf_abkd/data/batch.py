"""Batches: what the data loader gives, as each model takes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hf_abkd.data.shared_images import SharedImages
from hf_abkd.data.transform import SAMPLE_IDS, TARGET_DOMAIN_IDS, TARGET_DOMAIN_IMAGES, TEACHER_IMAGES
from hf_abkd.models.expected_images import PIXELS
from hf_abkd.models.tasks.task import NO_LABEL

# What a cached teacher says of the images of a batch, by column.
CACHED_TARGETS = "cached_targets"
# The rows of the two domains of a batch.
SOURCE, TARGET_DOMAIN = "source", "target"


@dataclass(frozen=True)
class Batch:
    """One view of some images, as student and teacher take it.

    Args:
        student: Keyword arguments of the student, without labels.
        labels: The labels, (N,), or None; -100 in rows that have none.
        teacher: Makes the keyword arguments of the teacher; costs something only if it is called.
        canvas: The images that both are made of, augmented, (N, C, H, W).
        cached: What a cached teacher says of the images; None if there is none.
        rows: Groups of rows by name, for a batch that is made of several kinds of images: a term may compare those of
            one group only. A group may be empty.
        samples: The ids of the images, (N,), or None.
        images: The name of the images among the student's arguments.
        shared_images: The size and colours of each model; None if they are the same.
    """

    student: dict[str, Any]
    labels: Tensor | None
    teacher: Callable[[], dict[str, Any]]
    canvas: Tensor
    cached: Mapping[str, Any] | None = None
    rows: Mapping[str, slice] | None = None
    samples: Tensor | None = None
    images: str = PIXELS
    shared_images: SharedImages | None = None

    @property
    def has_single_image(self) -> bool:
        """Whether this is one image, or a group of its rows is."""
        groups = (len(range(*rows.indices(len(self.student[self.images])))) for rows in (self.rows or {}).values())
        return len(self.student[self.images]) == 1 or 1 in groups

    @property
    def canvas_size(self) -> tuple[int, int]:
        """Height and width of the images that both are made of."""
        return self.canvas.shape[-2], self.canvas.shape[-1]


def read_batch(
    inputs: Mapping[str, Any],
    *,
    images: str,
    labels: str,
    shared_images: SharedImages | None = None,
    colours: Callable[[Tensor], Tensor] | None = None,
    augment: Callable[[Tensor, Tensor | None], Tensor] | None = None,
) -> Batch:
    """Return a batch as each model takes it: one view of the images, in the size and colours of each.

    Args:
        inputs: What the data loader gives, on the device.
        images: The name of the images in it.
        labels: The name of the labels in it.
        shared_images: The size and colours of each model; None if they are the same.
        colours: Makes both models' colours of images that are pixels, where these are the same.
        augment: Changes the images that both models see; it also gets their sample ids (N,), or None.

    Raises:
        ValueError: If the images are missing, or are pixels that no processor says the colours of.
    """
    student = dict(inputs)
    truth, teacher_images = student.pop(labels, None), student.pop(TEACHER_IMAGES, None)
    samples, cached = student.pop(SAMPLE_IDS, None), student.pop(CACHED_TARGETS, None)
    if images not in student:
        raise ValueError(
            f"the student takes {images!r}, and the data set gives {sorted(student)}. Prepare the images with "
            "`prepare(dataset, ImageTransform(processor))`."
        )
    pixels, rows = student[images], None
    if (others := student.pop(TARGET_DOMAIN_IMAGES, None)) is not None:
        pixels, samples, truth, rows = _joined_domains(
            pixels, others, samples, student.pop(TARGET_DOMAIN_IDS, None), truth
        )
    if shared_images is None and colours is not None and teacher_images is None and pixels.dtype == torch.uint8:
        pixels = colours(pixels)
    if shared_images is None and (teacher_images is not None or pixels.dtype == torch.uint8):
        raise ValueError(
            f"the images are pixels ({pixels.dtype}) for two processors; pass the teacher's to the trainer too: "
            "teacher_processor=..."
        )
    if teacher_images is not None and augment is not None:
        raise ValueError(
            f"the training set has images for the teacher alone ({TEACHER_IMAGES!r}), which the augmentation would "
            "not change with the student's. Prepare it with ImageTransform(..., shared=True)."
        )
    canvas = pixels if shared_images is None else shared_images.canvas(pixels)
    canvas = canvas if augment is None else augment(canvas, samples)
    student[images] = canvas if shared_images is None else shared_images.student(canvas)

    def teacher() -> dict[str, Any]:
        if shared_images is None:
            return student
        if teacher_images is None:
            return {**student, images: shared_images.teacher(canvas)}
        return {**student, images: shared_images.teacher_only(teacher_images)}

    return Batch(
        student, truth, teacher, canvas, cached, rows, samples=samples, images=images, shared_images=shared_images
    )


@dataclass(frozen=True)
class BatchReader:
    """Reads the batches of a run: what the data loader gives is named, sized and coloured alike in all of them.

    Args:
        images: The name of the images.
        labels: The name of the labels.
        shared_images: The size and colours of each model; None if they are the same.
        colours: Makes both models' colours of images that are pixels, where these are the same.
    """

    images: str
    labels: str
    shared_images: SharedImages | None = None
    colours: Callable[[Tensor], Tensor] | None = None

    @property
    def columns(self) -> list[str]:
        """What it reads beside what models take, by the names of columns."""
        further = [SAMPLE_IDS, TARGET_DOMAIN_IMAGES, TARGET_DOMAIN_IDS]
        return further if self.shared_images is None else [*further, TEACHER_IMAGES]

    def read(
        self, inputs: Mapping[str, Any], augment: Callable[[Tensor, Tensor | None], Tensor] | None = None
    ) -> Batch:
        """Return a batch as each model takes it; see `read_batch`."""
        return read_batch(
            inputs,
            images=self.images,
            labels=self.labels,
            shared_images=self.shared_images,
            colours=self.colours,
            augment=augment,
        )


def _joined_domains(
    source: Tensor,
    target_domain: Tensor,
    source_ids: Tensor | None,
    target_domain_ids: Tensor | None,
    labels: Tensor | None,
) -> tuple[Tensor, Tensor | None, Tensor | None, dict[str, slice]]:
    """Return the images, ids and labels of two domains as those of one batch, and where each domain lies in it."""
    if source.shape[1:] != target_domain.shape[1:] or source.dtype != target_domain.dtype:
        raise ValueError(
            f"images of the source are {tuple(source.shape[1:])} ({source.dtype}), those of the target "
            f"{tuple(target_domain.shape[1:])} ({target_domain.dtype}): one model reads both. Prepare both with "
            "the same image processor and num_channels."
        )
    count, more = len(source), len(target_domain)
    both = source_ids is not None and target_domain_ids is not None
    ids = torch.cat([source_ids, target_domain_ids]) if both else None  # type: ignore[list-item]
    if labels is not None:
        labels = torch.cat([labels, labels.new_full((more,), NO_LABEL)])
    return (
        torch.cat([source, target_domain]),
        ids,
        labels,
        {SOURCE: slice(0, count), TARGET_DOMAIN: slice(count, count + more)},
    )


def of_images(batch: Batch, canvas: Tensor) -> Batch:
    """Return a batch of other images, as the two models take those of this one; it has no labels.

    Args:
        batch: The batch.
        canvas: Images that both are made of, (M, C, H, W).

    Raises:
        ValueError: If the student takes more than images: it is not known what belongs to the new ones.
    """
    if more := sorted(set(batch.student) - {batch.images}):
        raise ValueError(f"images are added to a batch, and the student takes {more} beside them")
    shared_images = batch.shared_images
    student = {batch.images: canvas if shared_images is None else shared_images.student(canvas)}

    def teacher() -> dict[str, Any]:
        return student if shared_images is None else {batch.images: shared_images.teacher(canvas)}

    return Batch(student, None, teacher, canvas, images=batch.images, shared_images=shared_images)


def extended(batch: Batch, canvas: Tensor, base: str, group: str) -> Batch:
    """Return a batch with further images behind its own; they have no labels.

    Args:
        batch: The batch.
        canvas: The further images, of which both models' are made, (M, C, H, W).
        base: The name of the rows that it has.
        group: The name of the further rows.
    """
    count, more = len(batch.canvas), len(canvas)
    rows = {**(batch.rows or {}), base: slice(0, count), group: slice(count, count + more)}
    if more == 0:
        return replace(batch, rows=rows)
    longer = of_images(batch, torch.cat([batch.canvas, canvas]))
    labels = None if batch.labels is None else torch.cat([batch.labels, batch.labels.new_full((more,), NO_LABEL)])
    return replace(longer, labels=labels, rows=rows)
