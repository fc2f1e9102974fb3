"""Images without labels: read from files or any folder, and put behind the labelled rows of a training set."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Image, concatenate_datasets

from hf_abkd.data.arguments import DataArguments
from hf_abkd.data.class_folders import found_in
from hf_abkd.data.columns import Part, with_images
from hf_abkd.data.readable_images import with_readable_images
from hf_abkd.data.sources import load_files
from hf_abkd.data.subsets import drawn_rows
from hf_abkd.wording import counted, listed

logger = logging.getLogger(__name__)


def load_unlabelled(
    arguments: DataArguments, *, seed: int, cache_dir: str | None = None, token: str | None = None
) -> Dataset | None:
    """Return the images that the flags name as those without labels, in one column; None where they name none.

    A column of labels that the files have is not read.

    Args:
        arguments: The flags.
        seed: Which images `max_unlabelled_samples` draws.
        cache_dir: Where prepared files are kept; the default of `datasets` if None.
        token: Hub token.

    Raises:
        ValueError: If something cannot be read, or holds no images.
        FileNotFoundError: If a file or folder does not exist.
    """
    image = arguments.image_column_name
    if arguments.unlabelled_files:
        options = {"cache_dir": cache_dir, "token": token}
        part = load_files("--unlabelled_files", arguments.unlabelled_files, options)
    elif arguments.unlabelled_dir:
        part = load_folder("--unlabelled_dir", arguments.unlabelled_dir, image)
    else:
        return None
    part = with_images(part, image, None, arguments.image_bits)
    part = with_readable_images(
        replace(part, rows=part.rows.select_columns([image])), image, None, skip=arguments.skip_damaged_images
    )
    rows, count = part.rows, arguments.max_unlabelled_samples
    if not isinstance(rows, Dataset):
        raise TypeError(f"{part.origin}: a stream")
    return rows if count is None else rows.select(drawn_rows([0] * len(rows), count, seed=seed))


def load_folder(flag: str, folder: str, image: str) -> Part:
    """Return all images of a folder and of the folders in it, as paths in one column, in the order of the paths.

    Files that are no images are named in one warning.

    Args:
        flag: The flag that named the folder.
        folder: The folder.
        image: What the column is called.

    Raises:
        FileNotFoundError: If there is no such folder, or a link in it leads nowhere.
        ValueError: If there is no image in it.
    """
    origin, root = f"{flag} {folder}", Path(folder).expanduser().resolve()
    if not root.is_dir():
        raise FileNotFoundError(f"{origin}: no such folder")
    images: list[str] = []
    others: list[str] = []
    waiting, seen = [root], {root}
    while waiting:
        found = found_in(waiting.pop(), origin)
        images += [path.as_posix() for path in found.images]
        others += [path.relative_to(root).as_posix() for path in found.others]
        # A link may lead back up.
        new = [path for path in found.folders if path.resolve() not in seen]
        seen |= {path.resolve() for path in new}
        waiting += new
    if not images:
        raise ValueError(f"{origin}: no image in it, nor in the folders in it")
    if others:
        logger.warning("%s: %s without an image, not read: %s", origin, counted(len(others), "file"), listed(others))
    return Part(Dataset.from_dict({image: sorted(images)}, features=Features({image: Image()})), origin)


def with_unlabelled(train: Dataset, images: Dataset, image: str, label: str) -> Dataset:
    """Return labelled rows with images without labels behind them, whose label is None.

    Args:
        train: The labelled rows.
        images: The images, in one column.
        image: The column of the images.
        label: The column of the labels, a `ClassLabel`.
    """
    names = ClassLabel(names=train.features[label].names)
    if images.features[image] != train.features[image]:
        images = images.cast_column(image, train.features[image])
    images = images.add_column(label, [None] * len(images), feature=names)
    return concatenate_datasets([train.select_columns([image, label]), images])
