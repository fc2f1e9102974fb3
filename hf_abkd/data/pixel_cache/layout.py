"""PixelLayout: what cached pixels depend on beside the images themselves."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset, Image

from hf_abkd.data.hashes import pixel_hashes
from hf_abkd.data.pixels import Pixels
from hf_abkd.data.preprocessing import probes
from hf_abkd.data.table.columns import Column
from hf_abkd.data.table.manifest import MANIFEST_NAME, identity_differences
from hf_abkd.data.table.target_table import TargetTable
from hf_abkd.data.transform import ImageTransform
from hf_abkd.schema import Positive, checked

#: The column with the keys of the images, see `hf_abkd.data.pixel_cache.image_keys`.
KEYS = "file"
_WHAT: Literal["pixels of images"] = "pixels of images"


@dataclass(frozen=True)
class MadeImages:
    """What a processor makes of images: the size, and what became of a few that are the same everywhere.

    Args:
        size: Height and width.
        probes: Hashes of their pixels, which tell one way of resizing and cropping from another.
    """

    size: tuple[Positive, Positive]
    probes: tuple[int, ...]


@dataclass(frozen=True)
class PixelLayout:
    """What cached pixels depend on beside the images themselves; colours are no part of it.

    Args:
        what: That this is a cache of pixels.
        channels: 1 for grey or 3 for RGB images.
        mode: The mode to which the column of images converts them, if it names one.
        bits: How many bits 16-bit grey images use, if that was said.
        images: By the name of the column, what the images of a row are.
        least_side: How many pixels the shorter side of a JPEG keeps at least where less of it is decoded; None where
            all is. Caches of that kind, which are older, do not have it.
    """

    what: Literal["pixels of images"]
    channels: Positive
    mode: str | None
    bits: int | None
    images: dict[str, MadeImages]
    # Not in its repr, of which caches of fully decoded images have their names.
    least_side: Positive | None = field(default=None, repr=False)

    @classmethod
    def of(cls, dataset: Dataset, transform: ImageTransform) -> PixelLayout:
        """Return the layout of the pixels of a prepared data set.

        Raises:
            ValueError: If the images are no images of one size whose colours can be made of pixels.
        """
        feature = dataset.features[transform.image_column]
        mode = feature.mode if isinstance(feature, Image) else None
        made = {name: _made(pixels, transform.channels) for name, pixels in transform.pixels.items()}
        return cls(_WHAT, transform.channels, mode, transform.bits, made, transform.least_side)

    @classmethod
    def read(cls, table: TargetTable) -> PixelLayout:
        """Return the layout of a table that is a pixel cache.

        Raises:
            ValueError: If it is something else, or its manifest is damaged.
        """
        if table.identity.get("what") != _WHAT:
            raise ValueError(
                f"{table.folder} is a table, but no cache of pixels, as --pixel_cache and `write_pixels` write it"
            )
        fields = {name: table.identity.get(name) for name in cls.__dataclass_fields__}
        remedy = "Get this file again, or delete the folder and write the cache again"
        return checked(fields, cls, origin=table.folder / MANIFEST_NAME, remedy=remedy)

    @property
    def columns(self) -> list[Column]:
        """The columns of its table."""
        images = [Column(name, "uint8", (self.channels, *made.size)) for name, made in self.images.items()]
        return [Column(KEYS, "int64", (1,)), *images]

    def facts(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("least_side", None)}

    def check(self, run: PixelLayout, folder: Path) -> None:
        """Refuse a run whose images are others than these.

        Raises:
            ValueError: If they differ; what differs is named.
        """
        if differences := identity_differences(self.facts(), run.facts()):
            if self.least_side != run.least_side and self.images == run.images:
                here, there = (
                    "in full" if side is None else f"at scales that leave {side} pixels (reduced_decoding)"
                    for side in (self.least_side, run.least_side)
                )
                raise ValueError(
                    f"the images of the pixel cache {folder} were decoded {here}, and those of this run are decoded "
                    f"{there}: give each a folder of its own"
                )
            sizes = [{name: made.size for name, made in layout.images.items()} for layout in (self, run)]
            what = (
                f"images are resized or cropped otherwise ({differences[0].replace('table', 'cache')})"
                if sizes[0] == sizes[1]
                else f"its images are {_sizes(sizes[0])}, and those of this run {_sizes(sizes[1])}"
            )
            raise ValueError(
                f"the pixel cache {folder} was written for another image processor: {what}. Use that processor, or "
                "another folder for the pixels of this one"
            )


def _made(pixels: Pixels, channels: int) -> MadeImages:
    made = [pixel_hashes(pixels([probe]))[0] for probe in probes(channels)]
    return MadeImages(pixels.preprocessing.size, tuple(map(int, made)))


def _sizes(sizes: dict[str, tuple[int, int]]) -> str:
    return " and ".join(f"{height}x{width}" for height, width in sizes.values()) + " pixels"
