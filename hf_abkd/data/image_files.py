"""Image files: what bytes hold, told by the bytes and not by a suffix, and why they are no image that can be read."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path

from PIL import Image as PILImage
from PIL import UnidentifiedImageError, features

#: Names that say that a file is meant to be an image, whatever it holds.
IMAGE_SUFFIXES = frozenset(
    {".apng", ".avif", ".bmp", ".dcm", ".dib", ".gif", ".heic", ".heif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe"}
    | {".jpeg", ".jpg", ".jxl", ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".sgi", ".svg", ".tga", ".tif"}
    | {".tiff", ".webp"}
)
# Formats that Pillow opens without reading a picture, by running another program, or without a mark at the beginning
# by which they are told from any other file.
_NOT_READ = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "IM", "IMT", "IPTC", "MPEG", "PCD", "SPIDER", "TGA", "WMF"})
_TGA = ".tga"
_USUAL = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
# What Pillow reads with a plugin or in newer versions only: the words for it, by the brand in the file.
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF"} | dict.fromkeys(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC"
)
_UNREAD_FORMATS = frozenset({"AVIF", "HEIC", "JPEG XL", "SVG", "DICOM"})
# How many bytes of both ends of a file are looked at.
HEAD, TAIL = 512, 64


def begins_usually(head: bytes) -> bool:
    """Return whether bytes begin as PNG, JPEG, GIF, TIFF or WebP files do."""
    return head.startswith(_USUAL) or _is_webp(head)


def ends_usually(head: bytes, tail: bytes, size: int) -> bool:
    """Return whether a file that begins so ends as its kind does; what is cut off does not, and few others.

    Args:
        head: The first bytes.
        tail: The last bytes.
        size: How many bytes there are.
    """
    if head.startswith(b"\x89PNG"):
        return b"IEND" in tail
    if head.startswith(b"\xff\xd8\xff"):
        return b"\xff\xd9" in tail
    if head.startswith(b"GIF8"):
        return tail.endswith(b";")
    return not _is_webp(head) or int.from_bytes(head[4:8], "little") + 8 <= size


def is_image(path: Path) -> bool:
    """Return whether a file is an image or is meant to be one, by its suffix or else by what it holds."""
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return True
    with path.open("rb") as file:
        head = file.read(HEAD)
    return begins_usually(head) or _format(head) is not None or problem(path) is None


def problem(source: Path | bytes, *, decode: bool = False) -> str | None:
    """Return what is wrong with an image file, in a few words, or None.

    Args:
        source: The file, or its bytes.
        decode: Whether all of it is decoded, which takes some milliseconds, and not its header alone, which takes
            about a tenth of one. What does not end as its kind does is decoded in any case.
    """
    suffix = "" if isinstance(source, bytes) else source.suffix.lower()
    try:
        decode = decode or not ends_usually(*_ends(source))
        with PILImage.open(BytesIO(source) if isinstance(source, bytes) else source, formats=_formats(suffix)) as image:
            if 0 in image.size:
                return f"no pixels, {image.width}x{image.height}"
            if image.mode in ("I", "F"):
                return "32 bits per pixel, whose range is not known: save it with 8 or 16"
            if decode:
                image.load()
    except Exception as error:  # noqa: BLE001 (Pillow's readers stumble over broken bytes with errors of any kind)
        return problem_of(error, source)
    return None


def problem_of(error: Exception, source: Path | bytes) -> str:
    """Return what is wrong with an image file in the reading of which an error came up."""
    if isinstance(error, UnidentifiedImageError):
        return described(_ends(source)[0])
    if isinstance(error, PILImage.DecompressionBombError):
        return f"too large for Pillow: {error}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return f"damaged: {error}" if str(error) else f"damaged: {type(error).__name__}"


def described(head: bytes) -> str:
    """Return what the beginning of a file that Pillow does not know says that it is."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "empty"
    if (name := _format(head)) is not None:
        if name == "AVIF" and features.check("avif"):
            return "damaged: an AVIF image of which Pillow makes nothing"
        return f"{name}, which this Pillow does not read"
    if begins_usually(head):
        return "damaged: the beginning of an image without the rest of its header"
    if start.startswith((b"<!doctype html", b"<html")):
        return "an HTML page, perhaps an error of a server"
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS: run `git lfs pull`"
    if head[4:8] == b"ftyp":
        return "a video"
    return "no image"


def remedy(problems: list[str]) -> str:
    """Return what to do about files with such problems, as the beginning of a sentence."""
    unread = sorted({name for name in _UNREAD_FORMATS if any(text.startswith(f"{name},") for text in problems)})
    if not unread:
        return f"Mend or delete {'it' if len(problems) == 1 else 'them'}"
    newer = "; Pillow 11.3 and newer read AVIF (pip install -U pillow)" if "AVIF" in unread else ""
    return f"Convert {' and '.join(unread)} to PNG or JPEG{newer}"


def _format(head: bytes) -> str | None:
    """Return the name of an image format that Pillow may not read; None for any other."""
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12])
    if head.startswith((b"\xff\x0a", b"\x00\x00\x00\x0cJXL ")):
        return "JPEG XL"
    if head[128:132] == b"DICM":
        return "DICOM"
    return "SVG" if head.lstrip().startswith(b"<") and b"<svg" in head else None


def _is_webp(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def _ends(source: Path | bytes) -> tuple[bytes, bytes, int]:
    """Return the first and the last bytes of a file, and how many it has."""
    if isinstance(source, bytes):
        return source[:HEAD], source[-TAIL:], len(source)
    with source.open("rb") as file:
        head, size = file.read(HEAD), file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL))
        return head, file.read(TAIL), size


def _formats(suffix: str) -> list[str]:
    PILImage.init()
    # Files without a mark are only taken for what their name says.
    return [name for name in PILImage.ID if name not in _NOT_READ or (name == "TGA" and suffix == _TGA)]
