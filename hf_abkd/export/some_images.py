"""Images to try a student on: those of a prepared data set, or noise where none are named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm
from transformers import BaseImageProcessor

from hf_abkd.data.preprocessing import processed
from hf_abkd.models.expected_images import PIXELS, image_size_of
from hf_abkd.models.tasks.image_classification import IMAGE_CLASSIFICATION
from hf_abkd.teachers.cache.teacher_images import batches_of, spread_places
from hf_abkd.terminal import bars_are_seen

_BATCH_SIZE = 64
# What most networks that tell no size are made for.
_USUAL_SIZE = (224, 224)
# What takes longer has a bar, in seconds.
_PATIENCE = 3


def noise_images(processor: BaseImageProcessor, config: object, channels: int, count: int) -> Tensor:
    """Return images of random pixels as a processor makes them, the same ones every time, (N, C, H, W).

    Args:
        processor: The image processor of the student.
        config: The student's config, for the size of images that the processor leaves as they are.
        channels: How many channels the images have, 1 or 3.
        count: How many images.
    """
    found = image_size_of(config)
    height, width = _USUAL_SIZE if found is None else found[0]
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (count, height, width, channels), dtype=np.uint8)
    return torch.cat([processed(processor, Image.fromarray(one.squeeze())) for one in pixels])


def spread_images(dataset: Any, count: int) -> Iterator[Tensor]:
    """Yield batches of at most so many images, spread evenly over a prepared data set.

    Args:
        dataset: What `prepare` returned.
        count: How many images.

    Raises:
        TypeError: If its images are bytes, which the trainer of a cached run makes colours of.
    """
    places = spread_places(len(dataset), min(count, len(dataset)))
    for batch in batches_of(dataset, places, _BATCH_SIZE):
        yield _values(batch)


def labelled_batches(dataset: Any, what: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield all images of a prepared data set with their labels, and show how far it is.

    Args:
        dataset: What `prepare` returned.
        what: What the bar is called.

    Raises:
        TypeError: As `spread_images` does.
    """
    bar = tqdm(
        batches_of(dataset, range(len(dataset)), _BATCH_SIZE),
        desc=what,
        leave=False,
        delay=_PATIENCE,
        disable=not bars_are_seen(),
    )
    for batch in bar:
        yield _values(batch), batch[IMAGE_CLASSIFICATION.labels]


def _values(batch: dict[str, Any]) -> Tensor:
    values: Tensor = batch[PIXELS]
    if not values.is_floating_point():
        raise TypeError(
            f"the images of the data set are {str(values.dtype).removeprefix('torch.')}, as a cache hands them to its "
            "run, and not what the student takes: give prepare(images, ImageTransform(processor))"
        )
    return values
