"""Kinds of images to teach with: noise and real ones, with which synthesised ones are compared, and who judges them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from torch import nn
from transformers import BaseImageProcessor

from hf_abkd.methods.deep_inversion.sight import GREY, UNIT
from hf_abkd.models.arguments import ModelArguments
from hf_abkd.models.label_spaces import match_labels
from hf_abkd.models.processors import own_processor
from hf_abkd.models.teacher import load_teacher


def noise_images(count: int, size: tuple[int, int], names: Sequence[str]) -> Dataset:
    """Return images of independent pixels, with about the mean and the deviation of photographs.

    Args:
        count: How many.
        size: Height and width.
        names: The names of the classes, which come in turn.
    """
    pixels = np.random.default_rng(0).normal(GREY, UNIT, (count, *size, 3)).round().clip(0, 255).astype(np.uint8)
    columns = {"image": [PILImage.fromarray(one) for one in pixels], "label": [n % len(names) for n in range(count)]}
    return Dataset.from_dict(columns, features=Features({"image": Image(), "label": ClassLabel(names=list(names))}))


def real_images(rows: Any, count: int, names: Sequence[str], *, image_column: str, label_column: str) -> Dataset:
    """Return the first real images whose classes a teacher knows, labelled by the numbers that it has for them.

    The teacher's classes may be others than the data's, or in another order.

    Args:
        rows: The data set.
        count: How many.
        names: The names of the teacher's classes.
        image_column: The column of the images.
        label_column: The column of the labels.

    Raises:
        ValueError: If teacher and data share no classes, or there are too few images.
    """
    labels = rows.features[label_column]
    match = match_labels(dict(enumerate(labels.names)), dict(enumerate(names)), labels.num_classes, len(names))
    match.check_logits("knowledge_distillation")
    number_of = dict(zip(match.student_classes, match.teacher_classes, strict=True))
    plain = rows.with_format(None)
    wanted = [index for index, label in enumerate(plain[label_column]) if label in number_of]
    if len(wanted) < count:
        raise ValueError(f"there are {len(wanted)} real images of the teacher's classes; lower --num_images to that")
    chosen = plain.select(wanted[:count]).select_columns([image_column, label_column])
    renumbered = chosen.add_column("renumbered", [number_of[label] for label in chosen[label_column]])
    renumbered = renumbered.remove_columns(label_column).rename_columns({image_column: "image", "renumbered": "label"})
    if isinstance(renumbered.features["image"], Image):
        # Prepared rows leave decoding to their transform.
        renumbered = renumbered.cast_column("image", Image())
    return renumbered.cast_column("label", ClassLabel(names=list(names)))


def loaded_verifier(
    name: str, models: ModelArguments, device: torch.device
) -> tuple[nn.Module, BaseImageProcessor | None]:
    """Return a model that judges images, and its own image processor if it comes with one."""
    hub = models.hub().for_models()
    return load_teacher(name, labels=None, **hub).to(device), own_processor(name, **hub)
