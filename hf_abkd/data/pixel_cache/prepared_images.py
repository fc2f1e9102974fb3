"""The transform of a data set whose pixels can be cached, and why those of another cannot."""

from __future__ import annotations

from datasets import Dataset, Image, IterableDataset

from hf_abkd.data.transform import ImageTransform


def transform_of(dataset: object) -> ImageTransform:
    """Return the transform that decodes the images of a data set.

    Raises:
        TypeError: If it is a stream, or was not prepared.
        ValueError: If it has no rows, its images come from a cache already, or are not the files that it holds.
    """
    if isinstance(dataset, IterableDataset):
        raise TypeError(
            "the pixels of a stream cannot be cached: it gives its images once, in its own order. Leave out "
            "--streaming (streaming=True), or the pixel cache"
        )
    transform = dataset.format["format_kwargs"].get("transform") if isinstance(dataset, Dataset) else None
    if not isinstance(dataset, Dataset) or not isinstance(transform, ImageTransform):
        raise TypeError(
            "the pixels of prepared images are cached: give what prepare(dataset, ImageTransform(processor)) returns, "
            f"got {type(dataset).__name__}"
        )
    if not len(dataset):
        raise ValueError("there are no pixels to cache of a data set without rows")
    if transform.reads_pixels:
        raise ValueError("the images of this data set are read from a pixel cache already")
    if transform.corruption is not None:
        raise ValueError("corrupted images are made anew each time, and their pixels are not cached")
    feature = dataset.features[transform.image_column]
    if not isinstance(feature, Image):
        raise ValueError(
            f"column {transform.image_column!r} is {feature}, and cached pixels are found by the files of a column of "
            f"images: dataset.cast_column({transform.image_column!r}, datasets.Image())"
        )
    return transform
