"""Hashes of images, by which they are found and checked: the same in every data set, order and process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xxhash
from PIL import Image as PILImage


def signed_hash(*parts: Any) -> int:
    """Return a hash of bytes (or of contiguous arrays) as an int64, as Arrow and torch have it."""
    digest = xxhash.xxh3_64()
    for part in parts:
        digest.update(part)
    return int.from_bytes(digest.digest(), "little", signed=True)


def sample_id(image: PILImage.Image) -> int:
    """Return a hash of the pixels of a decoded image and of its size, an int64."""
    return signed_hash(f"{image.mode} {image.size}".encode(), image.tobytes())


def pixel_hashes(*columns: Any) -> np.ndarray:
    """Return a hash of the prepared pixels of each row, (N,) int64.

    Args:
        *columns: Images, (N, C, H, W) uint8 arrays or tensors on the CPU: one column, or those that make up a row.
    """
    arrays = [np.ascontiguousarray(column) for column in columns]
    shapes = [str(array.shape[1:]).encode() for array in arrays]

    def parts(row: Sequence[np.ndarray]) -> Sequence[Any]:
        return [part for shape, image in zip(shapes, row, strict=True) for part in (shape, image)]

    return np.array([signed_hash(*parts(row)) for row in zip(*arrays, strict=True)], np.int64)
