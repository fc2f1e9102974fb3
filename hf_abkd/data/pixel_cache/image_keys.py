"""Keys of images: hashes of their files, by which cached pixels are found without decoding anything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from hf_abkd.data.decoding import SampleError
from hf_abkd.data.hashes import signed_hash
from hf_abkd.data.transform import ImageTransform

# Whose files are in memory at once.
_ROWS = 32
# A bar that is gone at once says nothing.
_SECONDS = 5

# All files of a data set are read for them, once for writing a cache and for reading it.
_KNOWN: WeakKeyDictionary[Dataset, np.ndarray] = WeakKeyDictionary()


def image_keys(dataset: Dataset, transform: ImageTransform) -> np.ndarray:
    """Return a hash of the file of each image, (N,) int64; equal files have equal keys, in whatever data set.

    Args:
        dataset: The prepared data set.
        transform: What prepares it.

    Raises:
        ValueError: If images would have to be fetched first.
        SampleError: If a row has no image, or its file cannot be read.
    """
    if dataset not in _KNOWN:
        _KNOWN[dataset] = np.fromiter(_keys(dataset, transform), np.int64, len(dataset))
    return _KNOWN[dataset]


def _keys(dataset: Dataset, transform: ImageTransform) -> Any:
    column = transform.image_column
    rows = dataset.with_format("arrow").select_columns([column])
    doing = "Looking images up in the pixel cache"
    with tqdm(total=len(rows), desc=doing, unit=" images", delay=_SECONDS) as progress:
        for batch in rows.iter(_ROWS):
            for value in batch.column(column):
                yield signed_hash(_file(value, transform))
            progress.update(len(batch))


def _file(value: Any, transform: ImageTransform) -> Any:
    """Return the bytes of a value of an image column, an Arrow struct of bytes and path, without copying them."""
    if value.is_valid and value["bytes"].is_valid:
        return value["bytes"].as_buffer()
    stored: Mapping[str, Any] = value.as_py() or {}
    path = stored.get("path")
    if path is not None and "://" in path:
        raise ValueError(
            f"column {transform.image_column!r} holds addresses ({path}), and cached pixels are found by the bytes of "
            "the image files, all of which would be fetched before each run: download the images, or leave the pixel "
            "cache out"
        )
    try:
        return Path(path or "").read_bytes()
    except OSError:
        # Names the image, and what is wrong with it.
        transform.picture(stored)
        raise SampleError(f"the image {path!r} cannot be read") from None
