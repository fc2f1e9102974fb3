"""Readable images: what a data set holds is looked at before anything trains, and damaged images are named."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import ClassLabel, Dataset
from datasets.utils import tqdm

from hf_abkd.data.columns import Part
from hf_abkd.data.image_files import HEAD, TAIL, begins_usually, ends_usually, problem, remedy
from hf_abkd.wording import counted, listed

logger = logging.getLogger(__name__)

# Rows that are looked at together.
_ROWS = 1000
# What takes longer has a bar.
_SECONDS = 5


@dataclass(frozen=True)
class _Unreadable:
    row: int
    name: str
    problem: str


def with_readable_images(part: Part, image: str, label: str | None, *, skip: bool) -> Part:
    """Return the part without images that cannot be read; refuse it if there are any and they are not to be skipped.

    Without `skip` the headers of files are read, about 0.1 ms each, and of images that lie in the rows as bytes both
    ends; what does not end as its kind does is decoded. Other damage is found when the image is read. With `skip` every
    image is decoded once, some milliseconds each, on all cores.

    Args:
        part: The rows. A stream is returned as it is: its images are looked at while it flows.
        image: The column of the images.
        label: The column of the labels, a `ClassLabel`; None of images without labels.
        skip: Whether images that cannot be read are left out, counted and named.

    Raises:
        ValueError: If images cannot be read, or `skip` leaves a class without any, or is asked for with a stream.
    """
    if not isinstance(part.rows, Dataset):
        if skip:
            raise ValueError(
                f"{part.origin}: --skip_damaged_images decodes all images before training, which a stream cannot; "
                "leave out --streaming"
            )
        return part
    unreadable = list(_unreadable(part.rows, image, decode=skip))
    if not unreadable:
        return part
    told = _told(part, unreadable, label)
    if not skip:
        raise ValueError(
            f"{told}. {remedy([each.problem for each in unreadable])}, or leave such images out with "
            "--skip_damaged_images"
        )
    left_out = {each.row for each in unreadable}
    rows = part.rows.select([row for row in range(len(part.rows)) if row not in left_out])
    if not len(rows):
        raise ValueError(f"{told}. Nothing is left")
    gone = [] if label is None else sorted(set(part.rows[label][:]) - set(rows[label][:]))
    if label is not None and gone:
        names = _class_names(part.rows, label)
        raise ValueError(f"{told}. Nothing is left of {listed([names[number] for number in gone], quoted=True)}")
    logger.warning("%s; left out", told)
    return replace(part, rows=rows)


def _unreadable(rows: Dataset, image: str, *, decode: bool) -> Iterator[_Unreadable]:
    look = partial(_problem, decode=decode)
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        doing = "Decoding images for --skip_damaged_images" if decode else "Reading headers of images"
        for first in tqdm(range(0, len(rows), _ROWS), desc=doing, unit_scale=_ROWS, unit=" images", delay=_SECONDS):
            batch = rows.select(range(first, min(first + _ROWS, len(rows)))).select_columns([image])
            # Arrow's own values: bytes are not copied as long as nobody asks for them.
            values = batch.with_format("arrow")[:][image]
            for row, (value, found) in enumerate(zip(values, pool.map(look, values), strict=True), first):
                if found is not None:
                    yield _Unreadable(row, _name(value, row), found)


def _problem(value: Any, *, decode: bool) -> str | None:
    """Return what is wrong with one value of an image column, an Arrow struct of bytes and path."""
    data, path = value["bytes"], value["path"]
    if not data.is_valid:
        text = path.as_py()
        if text is None:
            return "neither bytes nor a path"
        # Addresses are not fetched before they are needed.
        return None if "://" in text else problem(Path(text), decode=decode)
    stored = data.as_buffer()
    if not decode:
        head, tail = stored[: min(HEAD, stored.size)], stored[max(0, stored.size - TAIL) :]
        if begins_usually(head.to_pybytes()) and ends_usually(head.to_pybytes(), tail.to_pybytes(), stored.size):
            return None
    return problem(stored.to_pybytes(), decode=decode)


def _name(value: pa.StructScalar, row: int) -> str:
    path = None if value["bytes"].is_valid else value["path"].as_py()
    return f"row {row:,}" if path is None else repr(path)


def _told(part: Part, unreadable: list[_Unreadable], label: str | None) -> str:
    """Return how many images cannot be read, which, and how much of which class that is."""
    # What is wrong with many is said once.
    named: dict[str, list[str]] = {}
    for each in unreadable:
        named.setdefault(each.problem, []).append(each.name)
    kinds = [f"{listed(images, 3)} ({problem})" for problem, images in named.items()]
    of_classes = "" if label is None else f" ({listed(_shares(part.rows, unreadable, label))})"
    return (
        f"{part.origin}: {counted(len(unreadable), 'image')} of {len(part.rows):,} cannot be read"
        f"{of_classes}: {listed(kinds, 3)}"
    )


def _shares(rows: Dataset, unreadable: list[_Unreadable], label: str) -> list[str]:
    """Return how many images of which class cannot be read."""
    numbers, names = rows[label][:], _class_names(rows, label)
    there, missing = Counter(numbers), Counter(numbers[each.row] for each in unreadable)
    return [f"{count} of {there[number]} of {names[number]!r}" for number, count in missing.most_common()]


def _class_names(rows: Dataset, label: str) -> list[str]:
    feature = rows.features[label]
    if not isinstance(feature, ClassLabel):
        raise TypeError(f"column {label!r} is {feature}, not a ClassLabel")
    return list(feature.names)
