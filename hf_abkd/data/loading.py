"""Image classification data sets from flags: loaded, checked before anything trains, and made ready for a model."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from math import ceil, floor
from pathlib import Path

from datasets import Dataset, IterableDataset

from hf_abkd.data.arguments import DataArguments
from hf_abkd.data.class_labels import class_names, labels_of, with_class_labels
from hf_abkd.data.columns import Part, with_images
from hf_abkd.data.readable_images import with_readable_images
from hf_abkd.data.sources import load_parts
from hf_abkd.data.subsets import drawn_rows, first_of_stream, shuffled
from hf_abkd.data.unlabelled import load_unlabelled, with_unlabelled
from hf_abkd.wording import listed, public_name


@dataclass(frozen=True)
class ImageDatasets:
    """Training and validation images with one shared list of class names.

    Attributes:
        train: Rows to train on; the label column is a `ClassLabel` with the names in `labels`. Images without labels
            are its last rows, and their label is None.
        validation: Rows to evaluate on with the same `ClassLabel`, or None.
        labels: Class names; the index is the label.
        name: A readable name for logs and the model card.
        unlabelled: How many images without labels there are.
    """

    train: Dataset | IterableDataset
    validation: Dataset | IterableDataset | None
    labels: list[str]
    name: str
    unlabelled: int = 0

    @property
    def labelled(self) -> Dataset | IterableDataset:
        """The rows to train on that have labels."""
        return self.train.take(len(self.train) - self.unlabelled) if self.unlabelled else self.train


def load_image_datasets(
    arguments: DataArguments, *, seed: int = 42, cache_dir: str | None = None, token: str | None = None
) -> ImageDatasets:
    """Load the images and labels that the flags name, and check all that can be checked without training.

    Without validation data a seeded, stratified share of the training rows is held out. Class names are taken from
    all training rows, before `max_train_samples` draws some of what is left, with every class in its share. A stream
    to train on is shuffled by a buffer. Images without labels come last. The headers of images are looked at, and with
    `skip_damaged_images` every image is decoded once.

    Args:
        arguments: The flags.
        seed: Seed of the hold-out, of the rows that are drawn, and of the order of a stream.
        cache_dir: Where the prepared data set is kept; the default of `datasets` if None.
        token: Hub token for private data sets.

    Raises:
        ValueError: If the flags contradict each other, or columns, images or labels are unusable.
        FileNotFoundError: If a named file or folder does not exist.
        OSError: If the data set cannot be read from the Hub.
    """
    _check_arguments(arguments)
    train, validation = load_parts(arguments, cache_dir=cache_dir, token=token)
    image, label = arguments.image_column_name, arguments.label_column_name
    readable = partial(with_readable_images, image=image, label=label, skip=arguments.skip_damaged_images)
    train = with_images(train, image, label, arguments.image_bits)
    names = class_names(train, label)
    train = readable(with_class_labels(train, label, names, like=train))
    if validation is not None:
        validation = with_images(validation, image, label, arguments.image_bits)
        validation = readable(with_class_labels(validation, label, names, like=train))
    elif arguments.train_val_split > 0:
        train, validation = _hold_out(train, label, arguments.train_val_split, seed)
    train = _subset(train, "--max_train_samples", arguments.max_train_samples, arguments, seed)
    if validation is not None:
        validation = _subset(validation, "--max_eval_samples", arguments.max_eval_samples, arguments, seed)
    rows = shuffled(train.rows, seed=seed, buffer_size=arguments.shuffle_buffer_size)
    unlabelled = load_unlabelled(arguments, seed=seed, cache_dir=cache_dir, token=token)
    if unlabelled is not None:
        rows = with_unlabelled(rows, unlabelled, image, label)
    return ImageDatasets(
        train=rows,
        validation=None if validation is None else validation.rows,
        labels=names,
        name=_readable_name(arguments),
        unlabelled=0 if unlabelled is None else len(unlabelled),
    )


def _check_arguments(arguments: DataArguments) -> None:
    sources = {
        "--dataset_name": arguments.dataset_name,
        "--train_files": arguments.train_files,
        "--train_dir": arguments.train_dir,
    }
    given = [flag for flag, value in sources.items() if value]
    if len(given) != 1:
        raise ValueError(
            f"give the training data with exactly one of {', '.join(sources)}; got {' and '.join(given) or 'none'}"
        )
    if arguments.validation_files and arguments.validation_dir:
        raise ValueError("give the validation data with one of --validation_files, --validation_dir; got both")
    if arguments.unlabelled_files and arguments.unlabelled_dir:
        raise ValueError("give the images without labels with one of --unlabelled_files, --unlabelled_dir; got both")
    if arguments.max_unlabelled_samples is not None and not arguments.names_unlabelled:
        raise ValueError("--max_unlabelled_samples is given without --unlabelled_files or --unlabelled_dir: add one")
    if arguments.names_unlabelled and arguments.streaming:
        raise ValueError(
            "images without labels are put behind the labelled ones, which a stream has no end for: leave out "
            "--streaming, or --unlabelled_files and --unlabelled_dir"
        )
    for flag, samples in (
        ("--max_train_samples", arguments.max_train_samples),
        ("--max_unlabelled_samples", arguments.max_unlabelled_samples),
        ("--max_eval_samples", arguments.max_eval_samples),
    ):
        if samples is not None and samples < 1:
            raise ValueError(f"{flag} must be at least 1, got {samples}; leave it out to use all rows")
    if arguments.pixel_cache and arguments.streaming:
        raise ValueError("the pixels of a stream cannot be cached: leave out --streaming, or --pixel_cache")
    if arguments.shuffle_buffer_size < 0:
        raise ValueError(f"--shuffle_buffer_size must be 0 or more, got {arguments.shuffle_buffer_size}")
    if arguments.image_bits is not None and not 8 <= arguments.image_bits <= 16:
        raise ValueError(f"--image_bits is from 8 to 16, got {arguments.image_bits}")
    if not 0 <= arguments.train_val_split < 1:
        raise ValueError(
            f"--train_val_split is a share of the training rows, at least 0 and below 1; "
            f"got {arguments.train_val_split}"
        )


def _hold_out(part: Part, label: str, share: float, seed: int) -> tuple[Part, Part]:
    options = "give validation data (--validation_files, --validation_dir), or --train_val_split 0 to train without any"
    if isinstance(part.rows, IterableDataset):
        raise ValueError(f"{part.origin}: a stream cannot be split; {options}")
    rows, sizes = len(part.rows), Counter(part.rows[label][:])
    names = part.rows.features[label].names
    alone = [names[number] for number, size in sorted(sizes.items()) if size == 1]
    cannot = f"{part.origin}: cannot hold out --train_val_split {share} of {rows} rows equally from every class"
    if alone:
        raise ValueError(f"{cannot}: there is a single image of {listed(alone, quoted=True)}. Add images, or {options}")
    fewest = len(sizes)
    if not fewest <= ceil(share * rows) <= rows - fewest:
        raise ValueError(
            f"{cannot}: each of the {fewest} classes needs an image on both sides. Choose a share from "
            f"{ceil(1000 * fewest / rows) / 1000:g} to {floor(1000 * (rows - fewest) / rows) / 1000:g}, or {options}"
        )
    parts = part.rows.train_test_split(test_size=share, stratify_by_column=label, seed=seed)
    return replace(part, rows=parts["train"]), replace(part, rows=parts["test"])


def _subset(part: Part, flag: str, count: int | None, arguments: DataArguments, seed: int) -> Part:
    """Return as many rows as a flag asks for; all of them where it asks for none, or there are no more."""
    label = arguments.label_column_name
    if count is None:
        return part
    if isinstance(part.rows, IterableDataset):
        buffer_size = arguments.shuffle_buffer_size
        image = arguments.image_column_name
        return first_of_stream(
            part, count, image=image, label=label, seed=seed, buffer_size=buffer_size, flag=f"{flag} {count}"
        )
    return replace(part, rows=part.rows.select(drawn_rows(labels_of(part, label), count, seed=seed)))


def _readable_name(arguments: DataArguments) -> str:
    if arguments.dataset_name:
        config = arguments.dataset_config_name
        return public_name(arguments.dataset_name) + (f" ({config})" if config else "")
    if arguments.train_files:
        first, *others = [Path(file).name for file in arguments.train_files]
        return f"{first} and {len(others)} more" if others else first
    folder = Path(arguments.train_dir or "").expanduser().resolve()
    return folder.parent.name if folder.name in ("train", "training") else folder.name
