"""Folders of labelled images that grow batch by batch: each batch is one parquet file, whole or not there.

What the batches were made from stands in a settings file, and a folder made from anything else is refused. Images are
stored as PNG, which loses nothing of 8-bit pixels, and `datasets` reads the files as they are.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import ClassLabel, Features, Image, Value
from PIL import Image as PILImage
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from hf_abkd.data.transform import ImageTransform

SETTINGS_NAME = "settings.json"
DATA_FOLDER = "data"


def image_features(names: Sequence[str]) -> Features:
    """Return the columns of a folder: the image, its label, what the teacher thinks of that label, and its batch."""
    return Features(
        {
            "image": Image(),
            "label": ClassLabel(names=list(names)),
            "teacher_confidence": Value("float32"),
            "batch": Value("int32"),
        }
    )


class ImageShards:
    """The batches in a folder.

    Args:
        folder: The folder; it is made if it is not there.
        made_from: Everything that decides what the images look like, as JSON can hold it.
        names: The class names, in label order.

    Raises:
        ValueError: If the folder was made from something else.
        FileExistsError: If it holds other files.
    """

    def __init__(self, folder: str | Path, made_from: Mapping[str, Any], names: Sequence[str]) -> None:
        self.folder = Path(folder)
        self.features = image_features(names)
        check_made_from(self.folder, made_from)
        (self.folder / DATA_FOLDER).mkdir(parents=True, exist_ok=True)
        if not (self.folder / SETTINGS_NAME).is_file():
            write_json(self.folder / SETTINGS_NAME, made_from)

    def file(self, index: int) -> Path:
        """Return the file of a batch."""
        return self.folder / DATA_FOLDER / f"batch-{index:05d}.parquet"

    def has(self, index: int) -> bool:
        """Whether a batch is there, which it is as a whole."""
        return self.file(index).is_file()

    def count(self) -> int:
        """Return how many batches there are without a gap, from the first."""
        index = 0
        while self.has(index):
            index += 1
        return index

    def write(
        self, index: int, images: Tensor, labels: Sequence[int], confidence: Sequence[float], about: Mapping[str, Any]
    ) -> None:
        """Store a batch.

        Args:
            index: Its number, from 0.
            images: Pixels, uint8, (N, C, H, W).
            labels: N labels.
            confidence: The teacher's probability of each label.
            about: What else is to be known of the batch, for JSON.
        """
        columns = {
            "image": [{"bytes": _png(image), "path": None} for image in images],
            "label": list(labels),
            "teacher_confidence": list(confidence),
            "batch": [index] * len(labels),
        }
        # The schema carries the types of `datasets`, and what is known of the batch.
        schema = self.features.arrow_schema
        schema = schema.with_metadata({**(schema.metadata or {}), b"about": json.dumps(about).encode()})
        table = pa.table(columns, schema=schema)
        file = self.file(index)
        unfinished = file.with_name(f".{file.name}.unfinished")
        with unfinished.open("wb") as stream:
            pq.write_table(table, stream)
            stream.flush()
            os.fsync(stream.fileno())
        unfinished.replace(file)

    def about(self, index: int) -> dict[str, Any]:
        """Return what was stored as known of a batch."""
        known: dict[str, Any] = json.loads(pq.read_schema(self.file(index)).metadata[b"about"])
        return known

    def read(self, index: int) -> tuple[list[PILImage.Image], list[int], list[float]]:
        """Return images, labels and confidences of a batch."""
        table = pq.read_table(self.file(index), memory_map=True)
        images = [_image(row) for row in table.column("image").to_pylist()]
        return images, table.column("label").to_pylist(), table.column("teacher_confidence").to_pylist()

    def remove(self, index: int) -> None:
        """Delete a batch, if it is there."""
        self.file(index).unlink(missing_ok=True)


class GrowingImages(TorchDataset[dict[str, Any]]):
    """A data set of fixed length over batches that become more while a model is trained on it.

    Which row stands at an index follows from the seed and from how many batches are visible, and from nothing else: a
    resumed run reads what an uninterrupted one would. The rows come in a drawn order, each as often as any other, and
    begin anew when all were there; with more rows than the length, so many of them are drawn.

    Every process that reads holds the PNG bytes of all visible batches in memory (some kilobytes for an image of 32x32
    pixels, some hundred for one of 224x224).

    Batches become visible by `show`, also in the worker processes of a data loader. Do it before the loader begins
    with an epoch: loaders read ahead.

    Args:
        shards: Where the batches are.
        length: How many rows an epoch has.
        transform: Makes of images and labels what the model takes.
        seed: Seed of the order.

    Raises:
        ValueError: If `length` is not positive, or there is no batch yet.
    """

    def __init__(self, shards: ImageShards, length: int, transform: ImageTransform, *, seed: int) -> None:
        if length < 1:
            raise ValueError(f"length must be at least 1, got {length}")
        self.shards, self.length, self.transform, self.seed = shards, length, transform, seed
        #: The columns of the files, by which a trainer checks the number of classes.
        self.features = shards.features
        # Shared with workers that live longer than an epoch.
        self._visible = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._tables: list[pa.Table] = []
        self._order: tuple[int, np.ndarray, np.ndarray] | None = None
        self.show(shards.count())

    @property
    def visible(self) -> int:
        """How many batches are read."""
        return int(self._visible.item())

    def show(self, batches: int) -> None:
        """Read the first so many batches from now on.

        Raises:
            ValueError: If they are not there.
        """
        missing = [index for index in range(batches) if not self.shards.has(index)]
        if missing or batches < 1:
            raise ValueError(
                f"{batches} batches of {self.shards.folder} are to be read, and of those are missing: {missing[:5]}"
            )
        self._visible.fill_(batches)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.length:
            raise IndexError(f"row {index} of {self.length}")
        order, starts = self._current_order()
        row = int(order[index])
        batch = int(np.searchsorted(starts, row, side="right")) - 1
        table, inside = self._tables[batch], row - int(starts[batch])
        image = _image(table.column("image")[inside].as_py())
        rows = self.transform({"image": [image], "label": [table.column("label")[inside].as_py()]})
        return {name: values[0] for name, values in rows.items()}

    def _current_order(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the row at each index, and the first row of each batch."""
        visible = self.visible
        if self._order is None or self._order[0] != visible:
            # The last of them may have been made anew since it was read.
            keep = min(len(self._tables), visible) if self._order is None or self._order[0] < visible else 0
            del self._tables[keep:]
            for index in range(keep, visible):
                self._tables.append(pq.read_table(self.shards.file(index), columns=["image", "label"], memory_map=True))
            starts = np.cumsum([0, *(table.num_rows for table in self._tables)])
            generator = np.random.default_rng([self.seed, visible])
            rounds = -(-self.length // int(starts[-1]))
            order = np.concatenate([generator.permutation(starts[-1]) for _ in range(rounds)])[: self.length]
            self._order = visible, order, starts[:-1]
        return self._order[1:]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(self.length))

    def __getstate__(self) -> dict[str, Any]:
        # A worker opens the files itself.
        return {**self.__dict__, "_tables": [], "_order": None}


def check_made_from(folder: Path, made_from: Mapping[str, Any]) -> None:
    """Check that a folder is empty or was made from the same; models may have moved to another path.

    Raises:
        ValueError: If it was made from something else; the message has both sides of what differs.
        FileExistsError: If it holds other files and no settings.
    """
    file = folder / SETTINGS_NAME
    if not file.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise FileExistsError(f"{folder} holds other files; choose a folder that is empty or not there")
        return
    there = _without_names(json.loads(file.read_text(encoding="utf-8")))
    here = _without_names(json.loads(json.dumps(made_from)))
    changed = [
        f"{key}: {there.get(key)!r} there, {here.get(key)!r} here"
        for key in sorted({*there, *here})
        if there.get(key) != here.get(key)
    ]
    if changed:
        raise ValueError(
            f"{folder} was begun with other settings. {'; '.join(changed)}. Use those of the folder to go on with it, "
            "or choose another folder (or delete this one)."
        )


def _without_names(made_from: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings without where models lie: their fingerprints tell which they are."""
    return {
        key: {k: v for k, v in value.items() if k != "name_or_path"} if isinstance(value, dict) else value
        for key, value in made_from.items()
    }


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    unfinished = file.with_name(f".{file.name}.unfinished")
    unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(file)


def _png(image: Tensor) -> bytes:
    pixels = image.permute(1, 2, 0).contiguous().cpu().numpy()
    stream = io.BytesIO()
    PILImage.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(stream, format="PNG")
    return stream.getvalue()


def _image(row: Mapping[str, Any]) -> PILImage.Image:
    image: PILImage.Image = PILImage.open(io.BytesIO(row["bytes"]))
    image.load()
    return image
