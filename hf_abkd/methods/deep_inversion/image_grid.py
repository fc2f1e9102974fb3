"""A grid of small images in one PNG file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image as PILImage

_GAP = 2


def save_grid(
    images: Sequence[PILImage.Image], file: str | Path, *, columns: int | None = None, side: int = 64
) -> Path:
    """Write images of one size row by row into a PNG file, and return its path.

    Args:
        images: Images, all of one size and mode (grey or RGB).
        file: Where to.
        columns: How many in a row; by default the grid is about square.
        side: Images smaller than this are enlarged by a whole factor, without smoothing, to about this.

    Raises:
        ValueError: If there are no images, or they are of different sizes.
    """
    sizes = {image.size for image in images}
    if len(sizes) != 1:
        raise ValueError(f"a grid needs images of one size, got {len(images)} images of the sizes {sorted(sizes)}")
    columns = columns or math.ceil(math.sqrt(len(images)))
    factor = max(1, side // max(next(iter(sizes))))
    pixels = [np.asarray(image.convert("RGB")).repeat(factor, 0).repeat(factor, 1) for image in images]
    height, width = pixels[0].shape[:2]
    rows = math.ceil(len(pixels) / columns)
    canvas = np.full((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3), 255, dtype=np.uint8)
    for index, image in enumerate(pixels):
        top, left = index // columns * (height + _GAP), index % columns * (width + _GAP)
        canvas[top : top + height, left : left + width] = image
    file = Path(file)
    PILImage.fromarray(canvas).save(file, format="PNG", optimize=True)
    return file
