"""Folders of labelled images that grow batch by batch: each batch is one parquet file, whole or not there.

What is read back is checked, as a full disk or a copy that was cut off may have left a part of it.

What the batches were made from stands in a settings file, and a folder made from anything else is refused. Images are
stored as PNG, which loses nothing of 8-bit pixels, and `datasets` reads the files as they are.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features, Image, Value
from PIL import Image as PILImage
from torch import Tensor

from hf_abkd.files import leftovers, whole_file, write_json
from hf_abkd.schema import checked, read_json

T = TypeVar("T")

SETTINGS_NAME = "settings.json"
DATA_FOLDER = "data"
_REMEDY = "Delete this file, and the same call makes the batch again"


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
        ValueError: If the folder was made from something else, or a batch in it is damaged.
        FileExistsError: If it holds other files.
    """

    def __init__(self, folder: str | Path, made_from: Mapping[str, Any], names: Sequence[str]) -> None:
        self.folder = Path(folder)
        self.features = image_features(names)
        check_made_from(self.folder, made_from)
        (self.folder / DATA_FOLDER).mkdir(parents=True, exist_ok=True)
        if not (self.folder / SETTINGS_NAME).is_file():
            write_json(self.folder / SETTINGS_NAME, made_from)
        for file in sorted((self.folder / DATA_FOLDER).glob("batch-*.parquet")):
            # Reads the end of the file alone, where a file that was cut off has none.
            self._opened(file)

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
            "image": [{"bytes": png_of(image), "path": None} for image in images],
            "label": list(labels),
            "teacher_confidence": list(confidence),
            "batch": [index] * len(labels),
        }
        # The schema carries the types of `datasets`, and what is known of the batch.
        schema = self.features.arrow_schema
        schema = schema.with_metadata({**(schema.metadata or {}), b"about": json.dumps(about).encode()})
        table = pa.table(columns, schema=schema)
        file = self.file(index)
        # A process that was killed may have left a part of this batch.
        for part in leftovers(file.parent, file.name):
            part.unlink()
        with whole_file(file) as scratch:
            pq.write_table(table, scratch)

    def about(self, index: int, schema: type[T]) -> T:
        """Return what was stored as known of a batch.

        Args:
            index: Its number.
            schema: A dataclass of what is looked for.

        Raises:
            ValueError: If the file is damaged.
        """
        file = self.file(index)
        metadata = self._opened(file).schema_arrow.metadata
        try:
            known = json.loads(metadata[b"about"])
        except ValueError as error:
            raise ValueError(f"{file} is damaged: {error}. {_REMEDY}") from error
        return checked(known, schema, origin=file, remedy=_REMEDY)

    def read(self, index: int) -> tuple[list[PILImage.Image], list[int], list[float]]:
        """Return images, labels and confidences of a batch.

        Raises:
            ValueError: If the file is damaged.
        """
        file, images = self.file(index), []
        try:
            table = self._opened(file).read()
            for row in table.column("image").to_pylist():
                images.append(image_of(row))
        except (OSError, TypeError, ValueError) as error:
            raise ValueError(f"{file}, row {len(images)} is damaged: {error}. {_REMEDY}") from error
        return images, table.column("label").to_pylist(), table.column("teacher_confidence").to_pylist()

    def _opened(self, file: Path) -> pq.ParquetFile:
        """Return the file of a batch, if it is one."""
        try:
            opened = pq.ParquetFile(file, memory_map=True)
        except (OSError, ValueError) as error:
            raise ValueError(f"{file} is damaged: {error}. {_REMEDY}") from error
        schema = opened.schema_arrow
        if not schema.equals(self.features.arrow_schema) or b"about" not in (schema.metadata or {}):
            raise ValueError(f"{file} is no batch of these images: its columns are {schema.names}. {_REMEDY}")
        return opened

    def remove(self, index: int) -> None:
        """Delete a batch, if it is there."""
        self.file(index).unlink(missing_ok=True)


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
    remedy = f"Get this file again, or delete {folder} to make the images again"
    there = _without_names(checked(read_json(file, remedy=remedy), dict[str, Any], origin=file, remedy=remedy))
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


def png_of(image: Tensor) -> bytes:
    """Return the PNG file of an image of pixels, uint8, (C, H, W)."""
    pixels = image.permute(1, 2, 0).contiguous().cpu().numpy()
    stream = io.BytesIO()
    PILImage.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(stream, format="PNG")
    return stream.getvalue()


def image_of(row: Mapping[str, Any]) -> PILImage.Image:
    """Return the image in a cell of the column of images."""
    image: PILImage.Image = PILImage.open(io.BytesIO(row["bytes"]))
    image.load()
    return image
