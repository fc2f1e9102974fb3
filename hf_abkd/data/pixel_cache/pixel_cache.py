"""PixelCache: images as a processor resized and cropped them, read from the disk in the place of the images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, Features, Value

from hf_abkd.data.hashes import pixel_hashes
from hf_abkd.data.pixel_cache.image_keys import image_keys
from hf_abkd.data.pixel_cache.layout import KEYS, PixelLayout
from hf_abkd.data.pixel_cache.prepared_images import transform_of
from hf_abkd.data.table.target_table import TargetTable
from hf_abkd.data.transform import SAMPLE_IDS, ImageTransform
from hf_abkd.wording import listed

# How many images of a data set are decoded again and compared with what is stored of them.
_COMPARED = 4


class PixelCache:
    """Images as a processor resized and cropped them, with their ids, in memory-mapped files.

    They are found by their files, whatever the order of the rows, and are the pixels that decoding gives, to the last
    bit. Colours are made of them on the device.

    Args:
        table: The pixels, as `hf_abkd.data.pixel_cache.writing.write_pixels` wrote them.

    Example:
        images = prepare(dataset, ImageTransform(processor))
        images = write_pixels("pixels", images).attach(images)
        DistillationTrainer(student, train_dataset=images, processing_class=processor, ...).train()
    """

    def __init__(self, table: TargetTable) -> None:
        self.table = table
        self.layout = PixelLayout.read(table)
        keys = table.whole(KEYS).reshape(-1)
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]

    @classmethod
    def load(cls, folder: str | Path) -> PixelCache:
        """Open a cache.

        Raises:
            FileNotFoundError: If there is none, it is not finished, or a file of it is missing.
            ValueError: If it is damaged, of a newer version, or something else.
        """
        return cls(TargetTable.open(folder))

    def check(self, layout: PixelLayout, keys: np.ndarray) -> None:
        """Refuse images that are not stored here, or otherwise.

        Args:
            layout: What the pixels of a run depend on.
            keys: The keys of its images, (N,) int64.

        Raises:
            ValueError: If the pixels are of another processor, or some images are missing.
        """
        self.layout.check(layout, self.table.folder)
        if missing := int((~np.isin(keys, self._keys)).sum()):
            raise ValueError(
                f"the pixel cache {self.table.folder} lacks {missing:,} of {len(keys):,} images: it holds the "
                f"{self.table.samples:,} that it was written for. Name the same images, number of samples and seed as "
                "then, choose another folder, or delete it, and one of these images is written"
            )

    def attach(self, dataset: Dataset) -> Dataset:
        """Return a prepared data set whose images are read from here.

        All image files are read once, to find their pixels by a hash of them, and a few images are decoded and
        compared.

        Args:
            dataset: What `hf_abkd.data.transform.prepare` returned, not a stream.

        Raises:
            TypeError: If it is not that.
            ValueError: If the pixels are of another processor, of other images, or other pixels than decoding gives.
        """
        transform = transform_of(dataset)
        keys = image_keys(dataset, transform)
        self.check(PixelLayout.of(dataset, transform), keys)
        places = self._order[np.searchsorted(self._keys, keys)]
        self._compare(dataset, transform, places)
        columns = {transform.image_column: pa.array(places)}
        features = {transform.image_column: Value("int64")}
        if (label := transform.label_column) is not None:
            features[label] = dataset.features[label]
            labels = dataset.with_format("arrow").select_columns([label])[:]
            columns[label] = labels.column(label)
        table = pa.table(columns, schema=Features(features).arrow_schema)
        rows = Dataset(table, split=dataset.split)
        return rows.with_transform(transform.reading(self.read), columns=transform.columns)

    def read(self, places: Sequence[int]) -> dict[str, Any]:
        """Return the images (N, C, H, W) uint8 of each column, and the ids, of some places.

        Raises:
            ValueError: If pixels are no longer those that were written.
        """
        names = list(self.layout.images)
        rows = np.asarray(places, np.int64)
        stored = self.table.read(rows, [*names, "sample_id", "pixels"])
        images = [stored[name] for name in names]
        damaged = stored["pixels"] != pixel_hashes(*images)
        if damaged.any():
            raise ValueError(
                f"the pixel cache {self.table.folder} is damaged: {damaged.sum()} images of a batch are not those that "
                f"were written (rows {listed(rows[damaged].tolist())}). Delete it, and it is written again"
            )
        tensors = {name: torch.from_numpy(array) for name, array in zip(names, images, strict=True)}
        return {**tensors, SAMPLE_IDS: stored["sample_id"].tolist()}

    def _compare(self, dataset: Dataset, transform: ImageTransform, places: np.ndarray) -> None:
        """Refuse pixels that other versions of the libraries would not make, by a few images of a data set."""
        rows = sorted({int(row) for row in np.linspace(0, len(dataset) - 1, _COMPARED)})
        images = dataset.with_format(None).select_columns([transform.image_column]).select(rows)
        made = transform.as_pixels()({transform.image_column: images[transform.image_column][:]})
        stored = self.read(places[rows].tolist())
        same = [torch.equal(made[name], stored[name]) for name in self.layout.images]
        if not all(same) or made[SAMPLE_IDS] != stored[SAMPLE_IDS]:
            raise ValueError(
                f"the pixel cache {self.table.folder} holds other pixels than decoding gives now, as with another "
                "version of Pillow or transformers: delete it, and it is written again"
            )

    def __reduce__(self) -> tuple[type[PixelCache], tuple[TargetTable]]:
        """Pickle the path of the table alone."""
        return type(self), (self.table,)
