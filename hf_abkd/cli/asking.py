"""Asking models about images: each sees them through its own image processor, in batches, as they are or corrupted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm
from transformers import BaseImageProcessor

from hf_abkd.data.corruptions import Corruption
from hf_abkd.data.evaluated import EvaluatedImages
from hf_abkd.data.transform import ImageTransform, prepare
from hf_abkd.models.expected_images import PIXELS, channels_of
from hf_abkd.teachers.cache.teacher_images import batches_of
from hf_abkd.teachers.live import LiveTeacher
from hf_abkd.terminal import bars_are_seen

# What takes longer has a bar, in seconds.
_PATIENCE = 3


@dataclass(frozen=True)
class AskedModel:
    """A model that is asked.

    Args:
        role: What it is: "student", "teacher", "baseline".
        name: Where it comes from.
        model: The model, in evaluation mode.
        processor: Its image processor.
    """

    role: str
    name: str
    model: Any
    processor: BaseImageProcessor

    @property
    def parameters(self) -> int:
        """How many parameters it has."""
        return sum(parameter.numel() for parameter in self.model.parameters())


@dataclass(frozen=True)
class Asking:
    """How models are asked about images.

    Args:
        images: The images with their labels.
        image_column: The column with the images.
        label_column: The column with the labels.
        batch_size: How many images a model sees at once.
        device: Where the models run.
    """

    images: EvaluatedImages
    image_column: str = "image"
    label_column: str = "label"
    batch_size: int = 64
    device: torch.device | str = "cpu"

    def labels(self) -> NDArray[np.int64]:
        """Return the labels of the images, (N,).

        Raises:
            ValueError: If an image has none.
        """
        labels = self.images.rows.with_format("arrow")[:][self.label_column].to_pylist()
        missing = sum(label is None or label < 0 for label in labels)
        if missing:
            raise ValueError(f"{missing:,} of {len(labels):,} images have no label, and nothing can be right on them")
        return np.array(labels, np.int64)

    def pixels(
        self, asked: AskedModel, places: Sequence[int], batch_size: int, corruption: Corruption | None = None
    ) -> Iterator[Tensor]:
        """Yield the images at some places as a model reads them, (N, C, H, W), on the device.

        Args:
            asked: The model.
            places: The places, in this order.
            batch_size: How many images at once.
            corruption: What is done to them before the processor of the model.
        """
        transform = ImageTransform(
            asked.processor,
            image_column=self.image_column,
            label_column=self.label_column,
            num_channels=channels_of(getattr(asked.model, "config", None)) or 3,
            corruption=corruption,
        )
        for batch in batches_of(prepare(self.images.rows, transform), places, batch_size):
            yield batch[PIXELS].to(self.device)

    def logits(self, asked: AskedModel, corruption: Corruption | None = None) -> Tensor:
        """Return what a model says of all images, (N, K), on the CPU.

        Raises:
            ValueError: If a logit is no number, or infinite.
        """
        count = len(self.images.rows)
        runner = LiveTeacher(asked.model.to(self.device))
        batches = self.pixels(asked, range(count), self.batch_size, corruption)
        bar = tqdm(
            batches,
            desc=asked.role + ("" if corruption is None else f", {corruption.name}"),
            total=-(-count // self.batch_size),
            leave=False,
            delay=_PATIENCE,
            disable=not bars_are_seen(),
        )
        with torch.no_grad():
            said = [runner.logits({PIXELS: pixels}).float().cpu() for pixels in bar]
        asked.model.cpu()
        logits = torch.cat(said)
        # A class may be ruled out by -inf.
        if broken := int((~(logits < torch.inf)).any(1).sum()):
            raise ValueError(
                f"the {asked.role} {asked.name} gives logits that are infinite or no numbers for "
                f"{broken:,} of {count:,} images: look at its weights, its image processor and the images"
            )
        return logits
