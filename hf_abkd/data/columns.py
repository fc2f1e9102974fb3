"""Columns: rows whose images can be decoded, checked before anything trains."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from pathlib import Path

from datasets import ClassLabel, Dataset, Image, IterableDataset, Value

from hf_abkd.data.decoding import SampleError, StoredImages, decoded
from hf_abkd.data.image_modes import with_bits
from hf_abkd.wording import counted


@dataclass(frozen=True)
class Part:
    """Rows, the flag they came from, so that an error can tell what to change, and the folder of their files."""

    rows: Dataset | IterableDataset
    origin: str
    folder: Path | None = None


def is_text(feature: object) -> bool:
    """Whether a column holds strings."""
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string", "string_view")


def with_images(part: Part, image: str, label: str | None, bits: int | None = None) -> Part:
    """Return the part with a column of images that are decoded when they are read.

    Args:
        part: The rows.
        image: The column of the images.
        label: The column of the labels, which must be there; None of images without labels.
        bits: How many bits 16-bit grey images use; None for what the files say.

    Raises:
        ValueError: If a column is missing, holds no images, or there are no rows.
    """
    features = part.rows.features
    if features is None:
        raise ValueError(
            f"{part.origin}: the types of the columns are not known before reading, which streaming needs; "
            "use parquet files written by `datasets`, or leave out --streaming"
        )
    _check_column(part, "--image_column_name", image, Image)
    if label is not None:
        _check_column(part, "--label_column_name", label, ClassLabel)
    rows, feature = part.rows, features[image]
    if not _is_decodable(feature):
        raise ValueError(
            f"{part.origin}: column {image!r} (--image_column_name) is {feature}, not images; use a column of type "
            "datasets.Image, of encoded image bytes, or of paths to image files"
        )
    if isinstance(rows, Dataset) and is_text(feature):
        rows = _with_whole_paths(part, rows, image)
    if bits is not None or not (isinstance(feature, Image) and feature.decode):
        rows = rows.cast_column(image, with_bits(bits))
    if isinstance(rows, Dataset):
        empty = rows.data.column(image).null_count
        if empty:
            raise ValueError(f"{part.origin}: {counted(empty, 'row')} without an image in column {image!r}; drop them")
        if not len(rows):
            raise ValueError(f"{part.origin}: holds no rows")
    else:
        _check_first(part, rows, image)
    return replace(part, rows=rows)


def _with_whole_paths(part: Part, rows: Dataset, image: str) -> Dataset:
    """Return rows whose relative paths of images are whole if they lie beside the file that names them.

    The first path decides for all; paths from the current folder stay as they are.
    """
    paths: list[str | None] = rows.select_columns([image]).with_format("arrow")[:][image].to_pylist()
    relative = next((path for path in paths if path is not None and "://" not in path and not Path(path).anchor), None)
    if relative is None:
        return rows
    if len(relative) > 1024 or "\n" in relative:
        raise ValueError(
            f"{part.origin}: column {image!r} (--image_column_name) holds text that is no path of a file, beginning "
            f"with {relative[:40]!r}; store the bytes of the images, or paths"
        )
    folder = part.folder
    if folder is None or not (folder / relative).is_file():
        if Path(relative).is_file():
            return rows
        beside = "the folder of each file (they lie in several, use one)" if folder is None else str(folder)
        raise ValueError(
            f"{part.origin}: no file {relative!r}, named in column {image!r}, neither in {beside}, where the paths are "
            f"looked up first, nor in the current folder {Path.cwd()}"
        )
    whole = [path if path is None or "://" in path or Path(path).anchor else str(folder / path) for path in paths]
    # The column is swapped, not mapped, which would copy all others.
    order = rows.column_names
    return rows.remove_columns(image).add_column(image, whole).select_columns(order)


def _check_first(part: Part, rows: IterableDataset, image: str) -> None:
    """Read the first image of a stream: the others are read while it flows."""
    try:
        first = next(iter(rows.cast_column(image, Image(decode=False)).select_columns([image]).take(1)), None)
    except (OSError, ValueError) as error:
        raise ValueError(f"{part.origin}: the first image in column {image!r} cannot be read: {error}") from error
    if first is None:
        raise ValueError(f"{part.origin}: holds no rows")
    try:
        decoded(first[image] or {}, StoredImages.of(rows, image))
    except SampleError as error:
        raise ValueError(f"{part.origin}: {error}") from error


def _check_column(part: Part, flag: str, name: str, wanted: type) -> None:
    features = part.rows.features
    if name in features:
        return
    only = next(iter(features)) if len(features) == 1 else ""
    separator = next((mark for mark in (";", "\t", "|") if mark in only), None)
    if separator is not None:
        raise ValueError(
            f"{part.origin}: the columns seem to be separated by {separator!r} (there is one, called {only!r}); "
            "separate them by commas"
        )
    likely = [column for column, feature in features.items() if isinstance(feature, wanted)]
    if not likely and wanted is Image:
        likely = [column for column, feature in features.items() if _is_decodable(feature) and not is_text(feature)]
    likely = likely or [each for each in features if each.lower() == name.lower()]
    likely = likely or difflib.get_close_matches(name, list(features))
    hint = f"; did you mean {flag} {likely[0]}?" if likely else ""
    columns = ", ".join(f"{column}: {feature}" for column, feature in features.items())
    raise ValueError(f"{part.origin}: no column {name!r} ({flag}); the columns are {columns}{hint}")


def _is_decodable(feature: object) -> bool:
    if isinstance(feature, Value):
        return is_text(feature) or feature.dtype in ("binary", "large_binary")
    if isinstance(feature, dict):
        return bool(feature) and set(feature) <= {"bytes", "path"}
    return isinstance(feature, Image)
