"""Where images come from: the Hub, files or folders, each part read on its own."""

from __future__ import annotations

import glob
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import load_dataset
from datasets.exceptions import DatasetsError

from hf_abkd.data.arguments import DataArguments
from hf_abkd.data.class_folders import load_class_folders
from hf_abkd.data.columns import Part
from hf_abkd.data.image_files import is_image
from hf_abkd.wording import counted, listed

logger = logging.getLogger(__name__)

_BUILDERS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json", ".arrow": "arrow"}
_VALIDATION_SPLITS = ("validation", "valid", "val", "dev", "test")


def load_parts(arguments: DataArguments, *, cache_dir: str | None, token: str | None) -> tuple[Part, Part | None]:
    """Return the training rows and the validation rows that the flags name; None where they name no validation data.

    Raises:
        ValueError: If something cannot be read, or has no such split.
        FileNotFoundError: If a named file or folder does not exist.
        OSError: If the data set cannot be read from the Hub.
    """
    options = {"streaming": arguments.streaming, "cache_dir": cache_dir, "token": token}
    _warn_of_same(arguments)
    # Each part is read on its own: read together, `datasets` would silently merge their class names.
    validation = None
    if arguments.validation_files:
        validation = load_files("--validation_files", arguments.validation_files, options)
    elif arguments.validation_dir:
        validation = load_class_folders("--validation_dir", arguments.validation_dir)
    if arguments.dataset_name:
        train, named_validation = _load_named(arguments, options, with_validation=validation is None)
        return train, validation or named_validation
    if arguments.train_files:
        return load_files("--train_files", arguments.train_files, options), validation
    if arguments.train_dir:
        return load_class_folders("--train_dir", arguments.train_dir), validation
    raise ValueError("no training data")  # refused by load_image_datasets before


def _warn_of_same(arguments: DataArguments) -> None:
    """Warn of files or a folder that are both trained and evaluated on."""
    labelled = _named(arguments.train_files, arguments.train_dir)
    unlabelled = _named(arguments.unlabelled_files, arguments.unlabelled_dir)
    validation = _named(arguments.validation_files, arguments.validation_dir)
    both = _shared(validation, labelled + unlabelled)
    # What is held out of the former is among the latter.
    split = [] if validation or arguments.train_val_split == 0 else _shared(unlabelled, labelled)
    if split:
        logger.warning(
            "%s: what --train_val_split holds out of it for the evaluation is trained on without labels; give "
            "validation data of other images",
            listed(split),
        )
    if both:
        logger.warning(
            "%s: trained and evaluated on, so that learning by heart counts as accuracy; leave out the validation "
            "data to hold out --train_val_split of the training rows",
            listed(both),
        )


def _named(files: Sequence[str] | None, folder: str | None) -> list[str]:
    """Return the files and the folder that two flags name."""
    return [*(files or []), *([folder] if folder else [])]


def _shared(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """Return the names of files and folders that others name, too."""
    places = {Path(other).expanduser().resolve() for other in others}
    return [name for name in names if Path(name).expanduser().resolve() in places]


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

    if any(part.info.builder_name == "imagefolder" for part in splits.values()):
        _check_left_out(Path(str(name)).expanduser(), origin)

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


def _check_left_out(folder: Path, origin: str) -> None:
    """Refuse a local folder with images that `datasets` leaves out of it in silence, because of their suffix."""
    # Only now, as few runs need it.
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

    visible = (path for path in folder.rglob("[!.]*") if path.suffix.lower() not in ImageFolder.EXTENSIONS)
    left_out = [path.relative_to(folder).as_posix() for path in sorted(visible) if path.is_file() and is_image(path)]
    if left_out:
        raise ValueError(
            f"{origin}: `datasets` leaves out {counted(len(left_out), 'image')} because of the suffix: "
            f"{listed(left_out)}. Read the folder with --train_dir and --validation_dir, or rename them"
        )


def load_files(flag: str, files: Sequence[str], options: Mapping[str, Any]) -> Part:
    """Return the rows of files of one kind.

    Args:
        flag: The flag that named the files.
        files: The files.
        options: What `datasets.load_dataset` is given beside them.

    Raises:
        ValueError: If they are of several kinds, of none that can be read, or empty.
        FileNotFoundError: If one does not exist.
    """
    suffixes = {Path(file).suffix.lower() for file in files}
    unknown = sorted(suffixes - set(_BUILDERS))
    if unknown:
        raise ValueError(f"{flag}: cannot read files of type {unknown}; allowed are {sorted(_BUILDERS)}")
    missing = [file for file in files if not Path(file).is_file()]
    if missing:
        raise FileNotFoundError(f"{flag}: no such file: {', '.join(missing)}")
    empty = [file for file in files if Path(file).stat().st_size == 0]
    if empty:
        raise ValueError(f"{flag}: empty, holds no rows: {', '.join(empty)}")
    builders = {_BUILDERS[suffix] for suffix in suffixes}
    if len(builders) > 1:
        raise ValueError(f"{flag}: all files must be of one kind, got {sorted(suffixes)}; convert them to .parquet")
    patterns = [glob.escape(file) for file in files]
    folders = {Path(file).resolve().parent for file in files}
    part = _load_local(f"{flag} {' '.join(files)}", builders.pop(), patterns, options)
    return replace(part, folder=folders.pop() if len(folders) == 1 else None)


def _load_local(origin: str, builder: str, patterns: list[str], options: Mapping[str, Any]) -> Part:
    # The split stands in messages about single rows.
    split = "validation" if origin.startswith("--validation") else "train"
    try:
        splits = load_dataset(builder, data_files={split: patterns}, **options)
    except (OSError, ValueError, DatasetsError) as error:
        # `datasets` tells what is wrong with a file only in the cause of its own error.
        cause = error.__cause__ or error
        hint = "; save the file as UTF-8" if isinstance(cause, UnicodeDecodeError) else ""
        raise ValueError(f"{origin}: cannot be read as {builder}, or holds no rows: {cause}{hint}") from error
    return Part(splits[split], origin)
