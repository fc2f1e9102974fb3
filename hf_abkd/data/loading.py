"""Image classification data sets from flags: loaded, checked before anything trains, and made ready for a model."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, IterableDataset, Value, load_dataset
from datasets.exceptions import DatasetsError
from PIL import Image as PILImage

from hf_abkd.data.class_labels import Part, class_names, is_text, some, with_class_labels

_BUILDERS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json", ".arrow": "arrow"}
_IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_VALIDATION_SPLITS = ("validation", "valid", "val", "dev", "test")


@dataclass
class DataArguments:
    """Which images to train and evaluate on, as flags for ``transformers.HfArgumentParser``.

    Exactly one of `dataset_name`, `train_files` and `train_dir` names the training data. The cache folder and the
    Hub token are flags of `hf_abkd.models.arguments.ModelArguments`, as one command line cannot hold them twice.
    """

    dataset_name: str | None = field(
        default=None, metadata={"help": "Data set on the Hub, or a local folder that datasets.load_dataset reads."}
    )
    dataset_config_name: str | None = field(
        default=None, metadata={"help": "Configuration of --dataset_name, if it has several."}
    )
    train_split_name: str = field(default="train", metadata={"help": "Split of --dataset_name to train on."})
    validation_split_name: str | None = field(
        default=None,
        metadata={
            "help": "Split of --dataset_name to evaluate on. Default: the first of validation, valid, val, dev and "
            "test that exists. Give the name of the train split to hold out --train_val_split of it instead."
        },
    )
    train_files: list[str] | None = field(
        default=None, metadata={"help": "Training files: .parquet, .arrow, .csv, .json or .jsonl, all of one kind."}
    )
    validation_files: list[str] | None = field(
        default=None, metadata={"help": "Validation files: .parquet, .arrow, .csv, .json or .jsonl."}
    )
    train_dir: str | None = field(default=None, metadata={"help": "Folder of training images, one folder per class."})
    validation_dir: str | None = field(
        default=None, metadata={"help": "Folder of validation images, one folder per class."}
    )
    train_val_split: float = field(
        default=0.1,
        metadata={
            "help": "Share of the training rows to hold out, equally from every class, when there is no validation "
            "data. 0 means no validation data."
        },
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Train on the first so many rows only (of what is left after a hold-out)."}
    )
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on the first so many rows only."})
    image_column_name: str = field(default="image", metadata={"help": "Column that holds the images."})
    label_column_name: str = field(default="label", metadata={"help": "Column that holds the labels."})
    streaming: bool = field(
        default=False, metadata={"help": "Read rows while training instead of preparing all of them first."}
    )


@dataclass(frozen=True)
class ImageDatasets:
    """Training and validation images with one shared list of class names.

    Attributes:
        train: Rows to train on; the label column is a `ClassLabel` with the names in `labels`.
        validation: Rows to evaluate on with the same `ClassLabel`, or None.
        labels: Class names; the index is the label.
        name: A readable name for logs and the model card.
    """

    train: Dataset | IterableDataset
    validation: Dataset | IterableDataset | None
    labels: list[str]
    name: str


def load_image_datasets(
    arguments: DataArguments, *, seed: int = 42, cache_dir: str | None = None, token: str | None = None
) -> ImageDatasets:
    """Load the images and labels that the flags name, and check all that can be checked without training.

    Without validation data a seeded, stratified share of the training rows is held out. Class names are taken from
    all training rows, before `max_train_samples` cuts them. Images are not decoded, but for the first of each part.

    Args:
        arguments: The flags.
        seed: Seed of the hold-out.
        cache_dir: Where the prepared data set is kept; the default of `datasets` if None.
        token: Hub token for private data sets.

    Raises:
        ValueError: If the flags contradict each other, or columns, images or labels are unusable.
        FileNotFoundError: If a named file or folder does not exist.
        OSError: If the data set cannot be read from the Hub.
    """
    _check_arguments(arguments)
    train, validation = _load(arguments, cache_dir=cache_dir, token=token)
    image, label = arguments.image_column_name, arguments.label_column_name
    train = _with_images(train, image, label)
    names = class_names(train, label)
    train = with_class_labels(train, label, names, like=train)
    if validation is not None:
        validation = with_class_labels(_with_images(validation, image, label), label, names, like=train)
    elif arguments.train_val_split > 0:
        train, validation = _hold_out(train, label, arguments.train_val_split, seed)
    return ImageDatasets(
        train=_first(train.rows, arguments.max_train_samples),
        validation=None if validation is None else _first(validation.rows, arguments.max_eval_samples),
        labels=names,
        name=_readable_name(arguments),
    )


def digits(*, seed: int = 42) -> ImageDatasets:
    """Return scikit-learn's handwritten digits: 1,797 grey images of 8x8 pixels in 10 classes, no download.

    Columns are `image` (mode L, 8x8, PNG) and `label`. 1,437 rows train and 360 validate, the same share of every
    class in both; the split and the order of the rows depend on `seed` alone.
    """
    from sklearn.datasets import load_digits  # a second of import that only this demo data set needs

    bunch = load_digits()
    pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)  # the original grey values are 0 to 16
    labels = [str(name) for name in bunch.target_names]
    features = Features({"image": Image(), "label": ClassLabel(names=labels)})
    columns = {"image": [PILImage.fromarray(image) for image in pixels], "label": bunch.target.tolist()}
    parts = Dataset.from_dict(columns, features=features).train_test_split(
        test_size=0.2, stratify_by_column="label", seed=seed
    )
    return ImageDatasets(parts["train"], parts["test"], labels, "scikit-learn digits")


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
    for flag, samples in (
        ("--max_train_samples", arguments.max_train_samples),
        ("--max_eval_samples", arguments.max_eval_samples),
    ):
        if samples is not None and samples < 1:
            raise ValueError(f"{flag} must be at least 1, got {samples}; leave it out to use all rows")
    if not 0 <= arguments.train_val_split < 1:
        raise ValueError(
            f"--train_val_split is a share of the training rows, at least 0 and below 1; "
            f"got {arguments.train_val_split}"
        )


def _load(arguments: DataArguments, *, cache_dir: str | None, token: str | None) -> tuple[Part, Part | None]:
    options = {"streaming": arguments.streaming, "cache_dir": cache_dir, "token": token}
    # Each part is read on its own: read together, `datasets` would silently merge their class names.
    validation = None
    if arguments.validation_files:
        validation = _load_files("--validation_files", arguments.validation_files, options)
    elif arguments.validation_dir:
        validation = _load_folder("--validation_dir", arguments.validation_dir, options)
    if arguments.dataset_name:
        train, own = _load_named(arguments, options, with_validation=validation is None)
        return train, validation or own
    if arguments.train_files:
        return _load_files("--train_files", arguments.train_files, options), validation
    if arguments.train_dir:
        return _load_folder("--train_dir", arguments.train_dir, options), validation
    raise ValueError("no training data")  # refused by _check_arguments before


def _load_named(
    arguments: DataArguments, options: Mapping[str, Any], *, with_validation: bool
) -> tuple[Part, Part | None]:
    name, config = arguments.dataset_name, arguments.dataset_config_name
    origin = f"--dataset_name {name}"
    if name is not None and name.startswith((".", "/", "~")) and not Path(name).expanduser().exists():
        raise FileNotFoundError(f"{origin}: no such folder")
    try:
        splits = load_dataset(name, config, **options)
    except OSError as error:
        raise OSError(f"{origin} could not be loaded: {error}") from error
    except (ValueError, DatasetsError) as error:
        raise ValueError(f"{origin} could not be loaded: {error.__cause__ or error}") from error

    def split(flag: str, wanted: str) -> Part:
        if wanted not in splits:
            raise ValueError(f"{origin} has no split {wanted!r} ({flag}); its splits are {sorted(splits)}")
        return Part(splits[wanted], f"{origin}, split {wanted!r}")

    train = split("--train_split_name", arguments.train_split_name)
    wanted = arguments.validation_split_name
    if wanted is None:
        others = [other for other in _VALIDATION_SPLITS if other in splits]
        wanted = next(iter(others), arguments.train_split_name)
    if not with_validation or wanted == arguments.train_split_name:
        return train, None
    return train, split("--validation_split_name", wanted)


def _load_files(flag: str, files: Sequence[str], options: Mapping[str, Any]) -> Part:
    suffixes = {Path(file).suffix.lower() for file in files}
    unknown = sorted(suffixes - set(_BUILDERS))
    if unknown:
        raise ValueError(f"{flag}: cannot read files of type {unknown}; allowed are {sorted(_BUILDERS)}")
    missing = [file for file in files if not Path(file).is_file()]
    if missing:
        raise FileNotFoundError(f"{flag}: no such file: {', '.join(missing)}")
    builders = {_BUILDERS[suffix] for suffix in suffixes}
    if len(builders) > 1:
        raise ValueError(f"{flag}: all files must be of one kind, got {sorted(suffixes)}; convert them to .parquet")
    patterns = [glob.escape(file) for file in files]
    return _load_local(f"{flag} {' '.join(files)}", builders.pop(), patterns, options)


def _load_folder(flag: str, folder: str, options: Mapping[str, Any]) -> Part:
    origin, root = f"{flag} {folder}", Path(folder).expanduser().resolve()
    if not root.is_dir():
        raise FileNotFoundError(f"{origin}: no such folder")
    entries = [entry for entry in sorted(root.iterdir()) if not entry.name.startswith(".")]
    classes = [entry.name for entry in entries if entry.is_dir()]
    loose = [entry.name for entry in entries if entry.suffix.lower() in _IMAGE_SUFFIXES]
    layout = "expected one folder per class with the images in it: FOLDER/cat/1.png, FOLDER/dog/2.png"
    if not classes or loose:
        found = f"images outside a class folder ({some(loose)})" if loose else "no folder inside"
        raise ValueError(f"{origin}: {found}; {layout}")
    # The pattern is given because `datasets` takes a class folder called "train" or "test" for a split.
    part = _load_local(
        origin,
        "imagefolder",
        [f"{glob.escape(str(root))}/**"],
        {**options, "drop_labels": False, "drop_metadata": True},
    )
    found_names = part.rows.features["label"].names
    if found_names != classes:
        odd = sorted(set(found_names) ^ set(classes))
        raise ValueError(f"{origin}: folders that are empty or nested deeper: {some(odd)}; {layout}")
    return part


def _load_local(origin: str, builder: str, patterns: list[str], options: Mapping[str, Any]) -> Part:
    try:
        splits = load_dataset(builder, data_files={"train": patterns}, **options)
    except (OSError, ValueError, DatasetsError) as error:
        # `datasets` tells what is wrong with a file only in the cause of its own error.
        raise ValueError(
            f"{origin}: cannot be read as {builder}, or holds no rows: {error.__cause__ or error}"
        ) from error
    return Part(splits["train"], origin)


def _with_images(part: Part, image: str, label: str) -> Part:
    """Return the part with a decodable image column, or raise telling which columns there are."""
    features = part.rows.features
    if features is None:
        raise ValueError(
            f"{part.origin}: the types of the columns are not known before reading, which streaming needs; "
            "use parquet files written by `datasets`, or leave out --streaming"
        )
    _check_column(part, "--image_column_name", image, Image)
    _check_column(part, "--label_column_name", label, ClassLabel)
    rows, feature = part.rows, features[image]
    if not _is_decodable(feature):
        raise ValueError(
            f"{part.origin}: column {image!r} (--image_column_name) is {feature}, not images; use a column of type "
            "datasets.Image, of encoded image bytes, or of paths to image files"
        )
    if not (isinstance(feature, Image) and feature.decode):
        rows = rows.cast_column(image, Image())
    if isinstance(rows, Dataset):
        empty = rows.data.column(image).null_count
        if empty:
            raise ValueError(f"{part.origin}: {empty} rows have no image in column {image!r}; drop them")
    try:
        first = next(iter(rows.select_columns([image]).take(1)), None)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{part.origin}: the first image in column {image!r} cannot be read: {error} "
            f"(paths are looked up from the current folder, {Path.cwd()})"
        ) from error
    if first is None:
        raise ValueError(f"{part.origin}: holds no rows")
    return replace(part, rows=rows)


def _check_column(part: Part, flag: str, name: str, wanted: type) -> None:
    features = part.rows.features
    if name not in features:
        likely = [column for column, feature in features.items() if isinstance(feature, wanted)]
        hint = f"; did you mean {flag} {likely[0]}?" if likely else ""
        columns = ", ".join(f"{column}: {feature}" for column, feature in features.items())
        raise ValueError(f"{part.origin}: no column {name!r} ({flag}); the columns are {columns}{hint}")


def _is_decodable(feature: object) -> bool:
    if isinstance(feature, Value):
        return is_text(feature) or feature.dtype in ("binary", "large_binary")
    if isinstance(feature, dict):
        return bool(feature) and set(feature) <= {"bytes", "path"}
    return isinstance(feature, Image)


def _hold_out(part: Part, label: str, share: float, seed: int) -> tuple[Part, Part]:
    options = "give validation data (--validation_files, --validation_dir), or --train_val_split 0 to train without any"
    if isinstance(part.rows, IterableDataset):
        raise ValueError(f"{part.origin}: a stream cannot be split; {options}")
    try:
        parts = part.rows.train_test_split(test_size=share, stratify_by_column=label, seed=seed)
    except ValueError as error:
        raise ValueError(
            f"{part.origin}: cannot hold out --train_val_split {share} of {len(part.rows)} rows equally from every "
            f"class: {error} Choose another share, {options}"
        ) from error
    return replace(part, rows=parts["train"]), replace(part, rows=parts["test"])


def _first(rows: Dataset | IterableDataset, count: int | None) -> Dataset | IterableDataset:
    return rows if count is None else rows.take(count)


def _readable_name(arguments: DataArguments) -> str:
    if arguments.dataset_name:
        config = arguments.dataset_config_name
        return arguments.dataset_name + (f" ({config})" if config else "")
    if arguments.train_files:
        first, *others = [Path(file).name for file in arguments.train_files]
        return f"{first} and {len(others)} more" if others else first
    folder = Path(arguments.train_dir or "").expanduser().resolve()
    return folder.parent.name if folder.name in ("train", "training") else folder.name
