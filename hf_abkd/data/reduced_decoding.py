"""Reduced decoding: JPEG files decoded at a half, a quarter or an eighth of their size, where they become smaller yet.

A JPEG stores blocks of frequencies, and a smaller picture is what the lower ones of them say: pixels that a resize
would average away are not computed. What is left is at least twice as large as an image processor makes it, which still
filters as it does otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO

import numpy as np
from PIL import ExifTags, ImageOps
from PIL import Image as PILImage

from hf_abkd.data.pixels import Pixels
from hf_abkd.data.preprocessing import noise

_BEGINNING = b"\xff\xd8\xff"
# As many times the size to which a processor brings a picture it has at least: Pillow's own choice for thumbnails.
_GAP = 2
_SCALES = (8, 4, 2)
# Of noise, twice and four times as large as it comes out: by filters that average 1 to 2 of 255, by others 40 and more.
_LARGEST_MEAN_DIFFERENCE = 6


def least_side_of(processors: Iterable[Pixels]) -> int:
    """Return how many pixels the shorter side of a picture keeps at least, for processors to make it smaller still.

    Raises:
        ValueError: If a processor does not bring pictures of any size to one, or picks pixels and averages none.
    """
    return max(_GAP * _resized_side(pixels) for pixels in processors)


def decoded_jpeg(data: bytes, least_side: int, mode: str | None) -> PILImage.Image | None:
    """Return the picture in a JPEG file, turned as its EXIF data say; None of a file of another kind.

    Args:
        data: The file.
        least_side: How many pixels its shorter side keeps at least. It is decoded at the smallest scale of a half, a
            quarter and an eighth that leaves so many and divides both sides; otherwise at its own size.
        mode: The mode to which it is converted, if any.
    """
    if not data.startswith(_BEGINNING):
        return None
    picture: PILImage.Image = PILImage.open(BytesIO(data))
    width, height = picture.size
    for scale in _SCALES:
        # A rest would be filled up, and the picture stretched by up to a pixel, which changes more than the scale does.
        if min(width, height) >= least_side * scale and width % scale == height % scale == 0:
            picture.draft(None, (width // scale, height // scale))
            break
    picture.load()
    # From here as `datasets.Image.decode_example` does.
    if picture.getexif().get(ExifTags.Base.Orientation) is not None:
        picture = ImageOps.exif_transpose(picture)
    return picture.convert(mode) if mode is not None and mode != picture.mode else picture


def _resized_side(pixels: Pixels) -> int:
    """Return to how many pixels a processor brings the shorter side of a picture, before it cuts a rim off."""
    channels, name = pixels.preprocessing.channels, type(pixels.processor).__name__
    side = 2 * _GAP * max(pixels.preprocessing.size)
    whole = noise((side, side), channels, np.random.default_rng(0))
    made = [pixels([picture]).float() for picture in (whole, whole.reduce(2))]
    if (made[0] - made[1]).abs().mean() > _LARGEST_MEAN_DIFFERENCE:
        raise ValueError(
            f"{name} makes another image of a picture of half the size: it does not bring pictures of any size to one, "
            "or picks pixels and averages none. Leave reduced_decoding out, or use a processor with do_resize=True and "
            "a resample that averages (bilinear, bicubic)"
        )
    # A ramp from black to white: by how many levels it rises from pixel to pixel tells how many pixels became one.
    ramp = PILImage.fromarray(np.tile(np.linspace(0, 255, side).round().astype(np.uint8), (side, 1)))
    ramp = ramp.convert("RGB") if channels > 1 else ramp
    levels = [
        pixels([ramp])[0].float().mean((0, 1)).numpy(),
        pixels([ramp.transpose(PILImage.Transpose.TRANSPOSE)])[0].float().mean((0, 2)).numpy(),
    ]
    return max(round(255 * side / (side - 1) / _rise(each)) for each in levels)


def _rise(levels: np.ndarray) -> float:
    """Return by how much levels rise from one to the next, away from both ends, which may be padding."""
    inner = levels[len(levels) // 4 : -(len(levels) // 4) or None]
    rise: float = abs(np.polyfit(np.arange(len(inner)), inner, 1)[0])
    return rise
