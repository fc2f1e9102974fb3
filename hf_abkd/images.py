"""Images of any mode as a model wants them: converted, processed, batched, while rows are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset
from PIL import Image as PILImage
from transformers import BaseImageProcessor

# The default of 1,000 would hold 1,000 processed images in memory before the first step.
STREAMING_BATCH_SIZE = 32


class ImageTransform:
    """Turn a batch of decoded images into model inputs; picklable, for `prepare` or ``dataset.with_transform``.

    Images of any mode become grey (one channel) or RGB (three): transparent pixels are laid on white, 16-bit grey is
    scaled to 8 bits instead of being clipped to white.

    Args:
        processor: The image processor of the model.
        image_column: Column with PIL images.
        label_column: Column with integer labels, or None for data without labels.
        num_channels: 1 for grey or 3 for RGB, as the model's ``config.num_channels``.

    Raises:
        ValueError: If `num_channels` is not 1 or 3, or the processor does not return that many channels.
    """

    def __init__(
        self,
        processor: BaseImageProcessor,
        *,
        image_column: str = "image",
        label_column: str | None = "label",
        num_channels: int = 3,
    ) -> None:
        if num_channels not in (1, 3):
            raise ValueError(f"num_channels must be 1 (grey) or 3 (RGB), got {num_channels}")
        self.processor = processor
        self.image_column = image_column
        self.label_column = label_column
        self.mode = "L" if num_channels == 1 else "RGB"
        self._check_channels(num_channels)

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        return [self.image_column] if self.label_column is None else [self.image_column, self.label_column]

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """Return `pixel_values` (N, C, H, W) and, with a label column, `labels` (a list of N integers).

        Raises:
            TypeError: If the image column holds something other than PIL images.
            ValueError: If an image has no known value range, or a label is missing.
        """
        images = [self._converted(image) for image in batch[self.image_column]]
        result = {"pixel_values": self.processor(images, return_tensors="pt")["pixel_values"]}
        if self.label_column is not None:
            labels = batch[self.label_column]
            # Data in memory was checked when it was loaded; a stream can only be checked as it flows.
            if any(label is None or label < 0 for label in labels):
                raise ValueError(
                    f"column {self.label_column!r} holds a row without a label (None or a negative number). "
                    "Drop such rows, or pass label_column=None to train without labels."
                )
            result["labels"] = list(labels)
        return result

    def _check_channels(self, num_channels: int) -> None:
        blank = PILImage.new(self.mode, (32, 32))
        remedy = (
            f"Use a processor for {num_channels}-channel images (length of image_mean and image_std, do_convert_rgb), "
            "or a model with another config.num_channels."
        )
        try:
            shape = tuple(self.processor([blank], return_tensors="pt")["pixel_values"].shape)
        except ValueError as error:
            raise ValueError(
                f"{type(self.processor).__name__} cannot process a {self.mode} image: {error}. {remedy}"
            ) from error
        if len(shape) != 4 or shape[1] != num_channels:
            raise ValueError(
                f"{type(self.processor).__name__} turned one {self.mode} image into shape {shape}, "
                f"but the model reads (N, {num_channels}, H, W). {remedy}"
            )

    def _converted(self, image: object) -> PILImage.Image:
        if not isinstance(image, PILImage.Image):
            raise TypeError(
                f"column {self.image_column!r} holds {type(image).__name__}, not PIL images; "
                f"cast it first: dataset.cast_column({self.image_column!r}, datasets.Image())"
            )
        if image.mode == self.mode:
            return image
        if image.mode.startswith("I;16"):
            # Pillow's own conversion clips everything above 255 to white.
            image = PILImage.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
        elif image.mode in ("I", "F"):
            raise ValueError(
                f"an image of mode {image.mode!r} (32 bits per pixel) has no known value range; "
                "save the images with 8 or 16 bits per channel"
            )
        elif image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
            # Dropping the alpha channel would show whatever colour is stored under the transparent pixels.
            image = image.convert("RGBA")
            image = PILImage.alpha_composite(PILImage.new("RGBA", image.size, "white"), image)
        return image.convert(self.mode)


def prepare(dataset: Dataset | IterableDataset, transform: ImageTransform) -> Dataset | IterableDataset:
    """Return the data set with `transform` applied when rows are read; only the columns it needs are decoded.

    `DistillationTrainer` knows of such a data set; with another trainer set ``remove_unused_columns=False``: the
    columns are replaced while reading, which ``Trainer`` cannot see.
    """
    if isinstance(dataset, IterableDataset):
        return dataset.select_columns(transform.columns).map(
            transform, batched=True, batch_size=STREAMING_BATCH_SIZE, remove_columns=transform.columns
        )
    return dataset.with_transform(transform, columns=transform.columns)
