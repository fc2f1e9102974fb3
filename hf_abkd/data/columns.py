"""Columns: rows whose images can be decoded, checked before anything trains."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from datasets import ClassLabel, Dataset, Image, IterableDataset, Value


@dataclass(frozen=True)
class Part:
    """Rows, and the flag they came from, so that an error can tell what to change."""

    rows: Dataset | IterableDataset
    origin: str


def is_text(feature: object) -> bool:
    """Whether a column holds strings."""
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string", "string_view")


def with_images(part: Part, image: str, label: str) -> Part:
    """Return the part with a column of images that are decoded when they are read.

    Args:
        part: The rows.
        image: The column of the images.
        label: The column of the labels, which must be there.

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
    _check_column(part, "--label_column_name", label, ClassLabel)
    rows, feature = part.rows, features[image]
    if not _is_decodable(feature):
        raise ValueError(
            f"{part.origin}: column {image!r} (--image_column_name) is {feature}, not images; use a column of type "
            "datasets.Image, of encoded image bytes, or of paths to image files"
        )
    if not (isinstance(feature, Image) and feature.decode):
        rows = rows.cast_column(image, Image())
    if isinstance(rows, Dataset):
        empty = rows.data.column(image).null_count
        if empty:
            raise ValueError(f"{part.origin}: {empty} rows have no image in column {image!r}; drop them")
    try:
        first = next(iter(rows.select_columns([image]).take(1)), None)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{part.origin}: the first image in column {image!r} cannot be read: {error} "
            f"(paths are looked up from the current folder, {Path.cwd()})"
        ) from error
    if first is None:
        raise ValueError(f"{part.origin}: holds no rows")
    return replace(part, rows=rows)


def _check_column(part: Part, flag: str, name: str, wanted: type) -> None:
    features = part.rows.features
    if name not in features:
        likely = [column for column, feature in features.items() if isinstance(feature, wanted)]
        hint = f"; did you mean {flag} {likely[0]}?" if likely else ""
        columns = ", ".join(f"{column}: {feature}" for column, feature in features.items())
        raise ValueError(f"{part.origin}: no column {name!r} ({flag}); the columns are {columns}{hint}")


def _is_decodable(feature: object) -> bool:
    if isinstance(feature, Value):
        return is_text(feature) or feature.dtype in ("binary", "large_binary")
    if isinstance(feature, dict):
        return bool(feature) and set(feature) <= {"bytes", "path"}
    return isinstance(feature, Image)
