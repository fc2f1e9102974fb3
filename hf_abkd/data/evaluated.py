"""Images to evaluate on, where nothing is trained: those that the flags of a run would evaluate on, or these alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from datasets import Dataset

from hf_abkd.data.arguments import DataArguments
from hf_abkd.data.class_folders import load_class_folders
from hf_abkd.data.class_labels import class_names, labels_of, with_class_labels
from hf_abkd.data.columns import with_images
from hf_abkd.data.loading import load_image_datasets
from hf_abkd.data.readable_images import with_readable_images
from hf_abkd.data.sources import load_files
from hf_abkd.data.subsets import drawn_rows


@dataclass(frozen=True)
class EvaluatedImages:
    """Images with labels.

    Attributes:
        rows: The rows; the label column is a `ClassLabel` with the names in `labels`.
        labels: The names of the classes; the index is the label.
        name: What they are called in reports.
    """

    rows: Dataset
    labels: list[str]
    name: str


def load_evaluated_images(
    arguments: DataArguments, *, seed: int = 42, cache_dir: str | None = None, token: str | None = None
) -> EvaluatedImages:
    """Load the images that a run with these flags would evaluate on; without training data validation data alone.

    Args:
        arguments: The flags.
        seed: Seed of the rows that are held out or drawn, that of the run.
        cache_dir: Where the prepared data set is kept; the default of `datasets` if None.
        token: Hub token for private data sets.

    Raises:
        ValueError: If no images are named, or they are unusable.
        FileNotFoundError: If a named file or folder does not exist.
        OSError: If the data set cannot be read from the Hub.
    """
    if arguments.pixel_cache:
        raise ValueError("an evaluation of finished models decodes its images: leave out --pixel_cache")
    if arguments.reduced_decoding:
        raise ValueError("an evaluation decodes its images in full: leave out --reduced_decoding")
    if arguments.streaming:
        raise ValueError("an evaluation reads all of its images: leave out --streaming")
    if arguments.train_files or arguments.train_dir or arguments.dataset_name:
        images = load_image_datasets(arguments, seed=seed, cache_dir=cache_dir, token=token)
        if images.validation is None:
            raise ValueError("--train_val_split 0 leaves no image to evaluate on: give --validation_files or a share")
        return EvaluatedImages(images.validation, images.labels, images.name)
    if bool(arguments.validation_files) == bool(arguments.validation_dir):
        given = "both" if arguments.validation_files else "none"
        raise ValueError(
            f"give the images with one of --validation_files and --validation_dir, or with --dataset_name; got {given}"
        )
    options = {"streaming": False, "cache_dir": cache_dir, "token": token}
    part = (
        load_files("--validation_files", arguments.validation_files, options)
        if arguments.validation_files
        else load_class_folders("--validation_dir", str(arguments.validation_dir))
    )
    image, label = arguments.image_column_name, arguments.label_column_name
    part = with_images(part, image, label, arguments.image_bits)
    names = class_names(part, label)
    part = with_class_labels(part, label, names, like=part)
    part = with_readable_images(part, image, label, skip=arguments.skip_damaged_images)
    if arguments.max_eval_samples is not None:
        places = drawn_rows(labels_of(part, label), arguments.max_eval_samples, seed=seed)
        part = replace(part, rows=part.rows.select(places))
    named = arguments.validation_files or [str(arguments.validation_dir)]
    return EvaluatedImages(part.rows, names, Path(named[0]).name + (f" and {len(named) - 1} more" if named[1:] else ""))
