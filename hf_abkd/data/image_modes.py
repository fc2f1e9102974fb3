"""Image modes: pictures of any mode as grey or RGB ones of 8 bits."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from datasets import Image
from PIL import Image as PILImage
from PIL.TiffImagePlugin import BITSPERSAMPLE, TiffImageFile

# Camera and X-ray images use so many bits of the 16 that they are stored in.
_USUAL_BITS = (8, 10, 12, 14)
_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}


def converted(image: PILImage.Image, mode: str, bits: int | None = None) -> PILImage.Image:
    """Return a picture in the mode "L" or "RGB"; transparent pixels are laid on white.

    Args:
        image: The picture.
        mode: "L" or "RGB".
        bits: How many bits a 16-bit grey picture uses; None for what a TIFF file says, and otherwise 16.

    Raises:
        ValueError: If it has no pixels, its range of values is not known, or it uses more bits than that.
    """
    if 0 in image.size:
        raise ValueError(f"has no pixels: it is {image.width} wide and {image.height} high")
    if image.mode == mode:
        return image
    if is_deep_grey(image):
        # Pillow's own conversion clips everything above 255 to white.
        image = _eight_bits(image, bits or bits_of(image))
    elif image.mode in ("I", "F"):
        raise ValueError(
            f"is of mode {image.mode!r} (32 bits per pixel) and has no known value range; save it with 8 or 16 bits "
            "per channel"
        )
    if image.mode in _PREMULTIPLIED:
        image = image.convert(_PREMULTIPLIED[image.mode])
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        # Dropping the alpha channel would show whatever colour is stored under the transparent pixels.
        image = image.convert("RGBA")
        image = PILImage.alpha_composite(PILImage.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def is_deep_grey(image: PILImage.Image) -> bool:
    """Return whether a picture is grey with 16 bits a pixel."""
    return image.mode.startswith("I;16")


def bits_of(image: PILImage.Image) -> int:
    """Return how many bits a 16-bit grey picture uses as its file says: TIFF files do, 16 otherwise."""
    if isinstance(image, TiffImageFile):
        return int(image.tag_v2.get(BITSPERSAMPLE, (16,))[0])
    return 16


def stated_bits(feature: object) -> int | None:
    """Return how many bits the 16-bit grey images of a column use, as `with_bits` wrote it down; None if nobody did."""
    if not isinstance(feature, Image) or not (feature.id or "").endswith(" bits"):
        return None
    return int((feature.id or "").split()[0])


def with_bits(bits: int | None) -> Image:
    """Return the type of a column of images that use so many of 16 bits; None for what the files say."""
    return Image() if bits is None else Image(id=f"{bits} bits")


def unused_bits(images: Iterable[PILImage.Image]) -> str | None:
    """Return a sentence if 16-bit grey pictures would be nearly black, because they use 14 bits or fewer; else None."""
    deep = [image for image in images if is_deep_grey(image) and bits_of(image) == 16]
    largest = max((int(np.asarray(image).max()) for image in deep), default=0)
    bits = next((bits for bits in _USUAL_BITS if largest < 2**bits), None)
    if not largest or bits is None:
        return None
    return (
        f"the largest value of {len(deep)} images with 16 bits a pixel is {largest:,}, so they seem to use {bits} bits "
        f"and would be nearly black. Say how many are used: --image_bits {bits}, or --image_bits 16 if they are dark "
        f"indeed; in Python dataset.cast_column(name, datasets.Image(id='{bits} bits'))"
    )


def _eight_bits(image: PILImage.Image, bits: int) -> PILImage.Image:
    values = np.asarray(image).astype(np.uint16)
    if bits < 16 and (largest := int(values.max())) >= 2**bits:
        raise ValueError(f"has the value {largest:,}, and {bits} bits reach to {2**bits - 1:,}; give --image_bits 16")
    return PILImage.fromarray((values >> (bits - 8)).astype(np.uint8))
