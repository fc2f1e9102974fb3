"""The images of a run, read from pixel caches in one folder, which are written first unless they are there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from hf_abkd.data.hashes import signed_hash
from hf_abkd.data.pixel_cache.layout import PixelLayout
from hf_abkd.data.pixel_cache.prepared_images import transform_of
from hf_abkd.data.pixel_cache.writing import write_pixels


def with_cached_pixels(folder: str | Path, datasets: Sequence[Any]) -> list[Any]:
    """Return prepared data sets whose images are read from pixel caches in a folder.

    What one processor makes of them lies in one cache, whichever rows are trained or evaluated on, and beside it in
    caches of their own the pixels for other processors.

    Args:
        folder: The folder.
        datasets: What `hf_abkd.data.transform.prepare` returned; None stays None.

    Raises:
        TypeError: If a data set is a stream.
        ValueError: If a cache lacks some of the images, or the images cannot be cached; see `write_pixels`.
        OSError: If the disk has too little space.
    """
    places = [None if dataset is None else Path(folder) / _name(dataset) for dataset in datasets]
    caches = {}
    for place in dict.fromkeys(filter(None, places)):
        together = [dataset for dataset, its in zip(datasets, places, strict=True) if its == place]
        caches[place] = write_pixels(place, *together)
    return [
        None if place is None else caches[place].attach(dataset)
        for dataset, place in zip(datasets, places, strict=True)
    ]


def _name(dataset: Dataset) -> str:
    """Return the name of the cache of a data set: the sizes of its images, and a hash of what else they depend on."""
    layout = PixelLayout.of(dataset, transform_of(dataset))
    sizes = "-".join(f"{height}x{width}" for height, width in (made.size for made in layout.images.values()))
    scale = "" if layout.least_side is None else f"-least{layout.least_side}"
    return f"{sizes}-{signed_hash(repr(layout).encode()) % 2**32:08x}{scale}"
