"""How good a cached teacher is: the accuracy of its stored logits on labelled images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from datasets import Dataset

from hf_abkd.data.transform import SAMPLE_IDS, prepare
from hf_abkd.models.label_spaces import match_labels
from hf_abkd.models.outputs import LOGITS
from hf_abkd.teachers.cache.encoding import as_tensors
from hf_abkd.teachers.cache.teacher_cache import TeacherCache
from hf_abkd.teachers.cache.teacher_images import batches_of, spread_places
from hf_abkd.teachers.class_order import decided_order


def accuracy(
    cache: TeacherCache,
    dataset: Dataset,
    labels: Sequence[str],
    *,
    image_column: str = "image",
    label_column: str = "label",
    samples: int = 1000,
) -> tuple[float, float] | None:
    """Return the accuracy of the stored logits on some labelled images, and what guessing would give; shares in [0, 1].

    None if no logits are stored, or the teacher predicts other classes.

    Args:
        cache: The stored targets.
        dataset: The images and their labels.
        labels: The names of the classes.
        image_column: The column with the images.
        label_column: The column with the labels.
        samples: How many images are looked at, spread evenly over the data set.
    """
    match = match_labels(dict(enumerate(labels)), cache.id2label, len(labels), cache.classes)
    if LOGITS not in cache.table.columns or not match.is_comparable:
        return None
    transform = cache.transform(cache.processor, image_column=image_column, label_column=label_column)
    places = spread_places(len(dataset), min(samples, len(dataset)))
    truth, said = [], []
    for batch in batches_of(prepare(dataset, transform), places, 64):
        rows = cache.table.rows(batch[SAMPLE_IDS].numpy(), 0)
        stored = as_tensors(cache.table.read(rows, [LOGITS]))
        logits = cache.decode(stored, {LOGITS: cache.table.columns[LOGITS]})[LOGITS]
        said.append(logits)
        truth.append(batch["labels"])
    logits, right = torch.cat(said), torch.cat(truth)
    match = decided_order(match, right, logits.argmax(1))
    answers = match.teacher_in_student_space(logits).argmax(1)
    return (answers == right).float().mean().item(), (right.bincount().max() / len(right)).item()
