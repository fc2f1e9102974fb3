"""Decoding: stored images as pictures, and one sentence that names the image where that fails."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Image, IterableDataset
from PIL import Image as PILImage

from hf_abkd.data.image_files import problem_of, remedy
from hf_abkd.data.reduced_decoding import decoded_jpeg

# An image column in memory that is larger is not searched for the row of a damaged image: what searches it is copied
# into every worker.
_SEARCHED_BYTES = 2**26


class SampleError(ValueError):
    """What is wrong with one sample, in a sentence that stays one when it comes out of a data loader's worker."""

    def __init__(self, message: str) -> None:
        # A worker hands on its whole traceback as the message. The sentence stands at the end of it.
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


class StoredImages:
    """Where the images of a column lie, to name one of them.

    Args:
        column: The name of the column.
        table: The column, or None if it is not known or too large to be searched.
        split: The split that they belong to, if it is known.
        mode: The mode to which the column's type converts them, if it names one.
        can_be_skipped: Whether all could be looked at before training, unlike those of a stream.
    """

    def __init__(
        self,
        column: str,
        table: Any = None,
        split: str | None = None,
        mode: str | None = None,
        can_be_skipped: bool = True,
    ) -> None:
        self.column = column
        self.can_be_skipped = can_be_skipped
        self.decoder = Image(mode=mode)
        self._table = table
        self._where = f"column {column!r}" + ("" if split is None else f" (split {split!r})")

    @classmethod
    def of(cls, dataset: Dataset | IterableDataset, column: str) -> StoredImages:
        """Return where the images of a data set lie, which may be shuffled: rows are those of its files."""
        split = None if dataset.split is None else str(dataset.split)
        feature = (dataset.features or {}).get(column)
        mode = feature.mode if isinstance(feature, Image) else None
        if not isinstance(dataset, Dataset) or column not in dataset.column_names:
            return cls(column, None, split, mode, isinstance(dataset, Dataset))
        table = dataset.data.select([column])
        # Tables of files are pickled as the names of the files.
        return cls(column, table if dataset.cache_files or table.nbytes <= _SEARCHED_BYTES else None, split, mode)

    def name(self, value: object) -> str:
        """Return the name of an image: its file, or its row, counted from 0."""
        stored = value if isinstance(value, Mapping) else {}
        data, path = stored.get("bytes"), stored.get("path")
        if data is None and path is not None:
            return f"the image {path!r}"
        row = None if data is None or self._table is None else self._row(data)
        # Of an image in the rows, a path is the name that it once had.
        once = "" if path is None else f" ({path})"
        if row is not None:
            return f"the image in row {row:,} of {self._where}{once}"
        return f"an image {'' if data is None else f'of {len(data):,} bytes '}in {self._where}{once}"

    def _row(self, data: bytes) -> int | None:
        found: int = pc.index(pc.struct_field(self._table.column(self.column), "bytes"), pa.scalar(data)).as_py()
        return None if found < 0 else found


def decoded(value: Mapping[str, Any], images: StoredImages, least_side: int | None = None) -> PILImage.Image:
    """Return a stored image (`bytes` or a `path`) as a picture, turned as its EXIF data say.

    Args:
        value: The stored image.
        images: Where it lies.
        least_side: How many pixels its shorter side keeps at least where a JPEG is decoded at a smaller scale; see
            `hf_abkd.data.reduced_decoding`. None decodes all pixels.

    Raises:
        SampleError: If it cannot be read, with its name.
    """
    data, path = value.get("bytes"), value.get("path")
    if data is None and path is None:
        raise SampleError(f"a row has no image in column {images.column!r}; drop it")
    elsewhere = data is None and "://" in str(path)
    try:
        if data is None and path is not None and not elsewhere:
            # Read here: a file that cannot be decoded would be left open.
            data = Path(path).read_bytes()
        picture = None if least_side is None or data is None else decoded_jpeg(data, least_side, images.decoder.mode)
        if picture is None:
            picture = images.decoder.decode_example({"bytes": data, "path": path})
    except Exception as error:
        if elsewhere:
            raise SampleError(f"{images.name(value)} cannot be fetched: {type(error).__name__}: {error}") from error
        found = problem_of(error, data or b"")
        skip = ", or leave such images out with --skip_damaged_images" if images.can_be_skipped else ""
        raise SampleError(f"{images.name(value)} cannot be read: {found}. {remedy([found])}{skip}") from error
    return picture
