"""Writing a pixel cache: images are decoded, resized and cropped once, by as many threads as there are cores."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from datasets import Dataset, concatenate_datasets

from hf_abkd.data.hashes import pixel_hashes, signed_hash
from hf_abkd.data.machines import found_by_all
from hf_abkd.data.pixel_cache.image_keys import image_keys
from hf_abkd.data.pixel_cache.layout import KEYS, PixelLayout
from hf_abkd.data.pixel_cache.pixel_cache import PixelCache
from hf_abkd.data.pixel_cache.pixel_card import pixel_card
from hf_abkd.data.pixel_cache.prepared_images import transform_of
from hf_abkd.data.table.manifest import MANIFEST_NAME
from hf_abkd.data.table.missing_shards import check_space, write_missing
from hf_abkd.data.table.shards import Shard
from hf_abkd.data.table.table_writer import TableWriter
from hf_abkd.data.transform import SAMPLE_IDS, ImageTransform

logger = logging.getLogger(__name__)

# Images that a thread makes ready at once, and how many threads there are at most.
_BATCH, _THREADS = 16, 16


def write_pixels(folder: str | Path, *datasets: Dataset) -> PixelCache:
    """Store the pixels of the images of prepared data sets, or go on where an earlier call was interrupted.

    How much of the disk it takes is told before anything is written, and refused if there is less. Equal files are
    stored once. Of a call that was made before and is complete, what is there is returned. Under a launcher every
    process writes its share, and all return the whole.

    Args:
        folder: Where the cache will be. Until it is complete there is only `<folder>.incomplete`.
        *datasets: What `hf_abkd.data.transform.prepare` returned, for the same image processor.

    Raises:
        FileExistsError: If the folder holds something else.
        TypeError: If a data set is a stream or was not prepared.
        ValueError: If the folder holds the pixels of another processor or lacks some of these images, another cache was
            begun there, or the images are not possible.
        OSError: If the disk has too little space.

    Example:
        images = prepare(dataset, ImageTransform(processor))
        images = write_pixels("pixels", images).attach(images)
    """
    folder, transforms = Path(folder), [transform_of(dataset) for dataset in datasets]
    layouts = [PixelLayout.of(*each) for each in zip(datasets, transforms, strict=True)]
    for layout in layouts[1:]:
        layouts[0].check(layout, folder)
    keys = np.concatenate([image_keys(*each) for each in zip(datasets, transforms, strict=True)])
    if not found_by_all(folder / MANIFEST_NAME):
        _write(folder, layouts[0], keys, _images(datasets, transforms), transforms[0])
    cache = PixelCache.load(folder)
    cache.check(layouts[0], keys)
    return cache


def _images(datasets: Sequence[Dataset], transforms: Sequence[ImageTransform]) -> Dataset:
    """Return the stored images of data sets, one behind another, in a column of one name."""
    name = transforms[0].image_column
    columns = [
        dataset.with_format(None).select_columns([transform.image_column]).rename_column(transform.image_column, name)
        if transform.image_column != name
        else dataset.with_format(None).select_columns([name])
        for dataset, transform in zip(datasets, transforms, strict=True)
    ]
    return columns[0] if len(columns) == 1 else concatenate_datasets(columns)


def _write(folder: Path, layout: PixelLayout, keys: np.ndarray, images: Dataset, transform: ImageTransform) -> None:
    """Write the pixels of images, in the order in which their keys are first seen."""
    state = PartialState()
    first = np.sort(np.unique(keys, return_index=True)[1])
    images, keys = images.select(first), keys[first]
    identity = {**layout.facts(), "files": signed_hash(keys)}
    table = TableWriter(folder, identity=identity, columns=layout.columns, samples=len(keys), views=1)
    space = check_space(folder, table.missing_bytes)
    if state.is_main_process:
        logger.warning("writing the pixels of %s images to %s: %s", f"{len(keys):,}", folder, space)
    threads = min(_THREADS, max(1, (os.cpu_count() or 1) // state.num_processes))
    with ThreadPoolExecutor(threads) as pool:
        rows = partial(_rows_of_shards, images, keys, transform.as_pixels(), list(layout.images), pool)
        write_missing(table, rows, state, doing="decoding images for the pixel cache")
    if state.is_main_process:
        table.finish({"processor": type(transform.processor).__name__}, card=pixel_card)
    state.wait_for_everyone()


def _rows_of_shards(
    images: Dataset,
    keys: np.ndarray,
    transform: ImageTransform,
    names: Sequence[str],
    pool: ThreadPoolExecutor,
    shards: Sequence[Shard],
    report: Callable[[int], object],
) -> Iterator[Iterable[Mapping[str, Any]]]:
    """Yield the rows of each shard, in order, batch by batch."""
    column = transform.image_column

    def made(start: int, values: Sequence[Any]) -> dict[str, Any]:
        prepared = transform({column: values})
        pixels = {name: prepared[name].numpy() for name in names}
        return {
            "sample_id": np.array(prepared[SAMPLE_IDS], np.int64),
            "pixels": pixel_hashes(*pixels.values()),
            "view": np.zeros(len(values), np.int32),
            KEYS: keys[start : start + len(values), None],
            **pixels,
        }

    def rows(shard: Shard) -> Iterator[Mapping[str, Any]]:
        starts = range(shard.start, shard.stop, _BATCH)
        stored = ((start, images[start : min(start + _BATCH, shard.stop)][column]) for start in starts)
        for batch in _in_order(pool, made, stored):
            yield batch
            report(len(batch["view"]))

    return (rows(shard) for shard in shards)


def _in_order(
    pool: ThreadPoolExecutor, function: Callable[..., dict[str, Any]], arguments: Iterable[tuple[Any, ...]]
) -> Iterator[dict[str, Any]]:
    """Yield what a function returns for each of some arguments, of which no more are taken than threads can use.

    The pool's own map would take all of them: the files of a whole shard.
    """
    running: deque[Future[dict[str, Any]]] = deque()
    for given in arguments:
        running.append(pool.submit(function, *given))
        if len(running) > _THREADS:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()
