"""Images of any mode as a model wants them: converted, processed, batched, while rows are read."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Image, IterableDataset
from PIL import Image as PILImage
from torch import Tensor
from transformers import BaseImageProcessor

from hf_abkd.data.colours import ColourMap
from hf_abkd.data.decoding import SampleError, StoredImages, decoded
from hf_abkd.data.given_columns import check_columns
from hf_abkd.data.hashes import sample_id
from hf_abkd.data.image_modes import converted, is_deep_grey, stated_bits, unused_bits
from hf_abkd.data.one_size import OneSize
from hf_abkd.data.pixel_colours import PixelColours
from hf_abkd.data.pixels import Pixels
from hf_abkd.data.preprocessing import processed
from hf_abkd.data.reduced_decoding import least_side_of
from hf_abkd.data.shared_images import SharedImages
from hf_abkd.models.expected_images import PIXELS
from hf_abkd.models.tasks.image_classification import IMAGE_CLASSIFICATION
from hf_abkd.models.tasks.task import NO_LABEL

# The default of 1,000 would hold 1,000 processed images in memory before the first step.
STREAMING_BATCH_SIZE = 32
# The column with the images as the teacher's own processor resizes and crops them.
TEACHER_IMAGES = f"teacher_{PIXELS}"
# The column with a number for every image, the same for the same image in every data set, order and process.
SAMPLE_IDS = "sample_id"


# About how many pixels are decoded before they are hashed and resized: one photograph, or 128 images of CIFAR-10.
_PIXELS_AT_ONCE = 2**17

# How many images are looked at to see how many of their bits are used.
_LOOKED_AT = 16

# The columns with the images, and their ids, of a second domain.
TARGET_DOMAIN_IMAGES = f"target_{PIXELS}"
TARGET_DOMAIN_IDS = "target_sample_id"


class ImageTransform:
    """Turn a batch of decoded images into model inputs; picklable, for `prepare` or ``dataset.with_transform``.

    Images of any mode become grey (one channel) or RGB (three): transparent pixels are laid on white, 16-bit grey is
    scaled to 8 bits instead of being clipped to white. Stored images (bytes or a path) are decoded, and a damaged one
    is named.

    With a processor of the teacher's own, images come as 8-bit pixels, resized and cropped but in no model's colours;
    `hf_abkd.data.shared_images.SharedImages` makes of them what each model reads.

    Args:
        processor: The image processor of the model.
        image_column: Column with PIL images.
        label_column: Column with integer labels, or None for data without labels.
        num_channels: 1 for grey or 3 for RGB, as the model's ``config.num_channels``.
        teacher_processor: The image processor of a teacher that needs another one.
        shared: Whether a teacher with a processor of its own gets the same view as the student, as for images that are
            augmented: one image, of the size and crop of the processor with the larger size. Otherwise each model gets
            the size and crop of its own processor, made from one decoded image, as for evaluation.
        teacher_canvas: Whether a shared image has the teacher's size and crop even where the student's is larger, as
            an image has whose targets were cached without knowing the student.
        sample_ids: Whether each image comes with its id, a hash of its pixels as they were decoded. Augmentations and
            cached teachers need it; models of another trainer may not take it.
        unlabelled: Whether rows may have no label, None or a negative number in the column, for training on images
            without labels beside those with: such rows come with the label -100, which losses leave out. Otherwise
            they are refused.
        corruption: What is done to each picture once it is grey or RGB, before the processor; see
            `hf_abkd.data.corruptions`. None leaves it as it is.
        reduced_decoding: Whether JPEG files at least four times as large as the processor makes them are decoded at a
            half, a quarter or an eighth of their size, where that divides both sides. That is faster, and the pixels
            are others, in photographs by less than 1 of 255 in the mean. Ids are of what was decoded and change, too.
            Files that are fetched by their addresses are decoded in full.

    Raises:
        ValueError: If `num_channels` is not 1 or 3, a processor does not return that many channels, or, with a
            `teacher_processor` or `reduced_decoding`, no `Preprocessing` of a processor can be measured. If pictures of
            which less is decoded would be corrupted, or a processor does not make them smaller.

    Example:
        >>> from PIL import Image
        >>> from transformers import ViTImageProcessorPil
        >>> transform = ImageTransform(ViTImageProcessorPil(size={"height": 24, "width": 24}))
        >>> batch = transform({"image": [Image.new("L", (30, 40))], "label": [3]})
        >>> batch["pixel_values"].shape, batch["labels"]
        (torch.Size([1, 3, 24, 24]), [3])
    """

    def __init__(
        self,
        processor: BaseImageProcessor,
        *,
        image_column: str = "image",
        label_column: str | None = "label",
        num_channels: int = 3,
        teacher_processor: BaseImageProcessor | None = None,
        shared: bool = True,
        teacher_canvas: bool = False,
        sample_ids: bool = True,
        unlabelled: bool = False,
        corruption: Callable[[PILImage.Image], PILImage.Image] | None = None,
        reduced_decoding: bool = False,
    ) -> None:
        if num_channels not in (1, 3):
            raise ValueError(f"num_channels must be 1 (grey) or 3 (RGB), got {num_channels}")
        self.processor = processor
        self.image_column = image_column
        self.label_column = label_column
        self.sample_ids = sample_ids
        self.unlabelled = unlabelled
        self.corruption = corruption
        self.mode = "L" if num_channels == 1 else "RGB"
        processed(processor, PILImage.new(self.mode, (32, 32)))
        self._images = StoredImages(image_column)
        #: How many bits 16-bit grey images use, where it is known without asking each file.
        self.bits: int | None = None
        self._alone = OneSize(processor)
        self._pixels: dict[str, Pixels] = {}
        self._stored: Callable[[Sequence[int]], dict[str, Any]] | None = None
        if teacher_processor is not None:
            student, teacher = Pixels(processor, num_channels), Pixels(teacher_processor, num_channels)
            if shared:
                size = SharedImages(student.preprocessing, teacher.preprocessing).canvas_size
                is_students = student.preprocessing.size == size and not teacher_canvas
                self._pixels = {PIXELS: student if is_students else teacher}
            else:
                self._pixels = {PIXELS: student, TEACHER_IMAGES: teacher}
        if reduced_decoding and corruption is not None:
            raise ValueError("a corruption is of a strength for whole pictures: leave reduced_decoding out")
        #: How many pixels the shorter side of a picture keeps where less of it is decoded; None if all is decoded.
        self.least_side = least_side_of(self.pixels.values()) if reduced_decoding else None

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        return [self.image_column] if self.label_column is None else [self.image_column, self.label_column]

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """Return `pixel_values` (N, C, H, W), `sample_id` and, with a label column, `labels` (lists of N integers).

        With a `teacher_processor` these are uint8 pixels, and where the images are not shared there are the teacher's
        `teacher_pixel_values` (N, C, H, W) too.

        Raises:
            TypeError: If the image column holds something other than PIL images.
            SampleError: If an image cannot be read, has no pixels or no known value range, comes out in another size
                than images before, or a label is no class number. It is a `ValueError`.
        """
        images = batch[self.image_column]
        result = self._decoded(images) if self._stored is None else self._stored(images)
        if not self.sample_ids:
            del result[SAMPLE_IDS]
        if self.label_column is not None:
            labels = batch[self.label_column]
            # Rows in memory were checked when they were prepared; a stream can only be checked as it flows.
            result[IMAGE_CLASSIFICATION.labels] = [self._label(label) for label in labels]
        return result

    @property
    def channels(self) -> int:
        """1 for grey or 3 for RGB images."""
        return len(PILImage.new(self.mode, (1, 1)).getbands())

    @property
    def reads_pixels(self) -> bool:
        """Whether rows have places in their column of images where pixels are stored; see `reading`."""
        return self._stored is not None

    @cached_property
    def pixels(self) -> Mapping[str, Pixels]:
        """What makes the pixels of each column of images.

        Raises:
            ValueError: If no `Preprocessing` of the only processor can be measured.
        """
        return self._pixels or {PIXELS: Pixels(self.processor, self.channels)}

    def measured_colours(self) -> PixelColours | ColourMap | None:
        """Return what makes the model's colours of stored pixels; None of rows that have these, or two models share."""
        return PixelColours.measured(self.pixels[PIXELS]) if self.reads_pixels and not self._pixels else None

    def as_pixels(self) -> ImageTransform:
        """Return a transform that gives the same images as pixels, with ids and without labels."""
        transform = copy.copy(self)
        transform._pixels, transform.label_column, transform.sample_ids = dict(self.pixels), None, True
        return transform

    def reading(self, stored: Callable[[Sequence[int]], dict[str, Any]]) -> ImageTransform:
        """Return a transform of rows that have, in the column of images, places where pixels and ids are stored.

        Args:
            stored: Returns what `as_pixels` gives for the images of some places.
        """
        transform = copy.copy(self)
        transform._stored = stored
        return transform

    def of(self, dataset: Dataset | IterableDataset) -> ImageTransform:
        """Return the transform for the images of one data set, which it can name and whose grey levels it knows."""
        transform = copy.copy(self)
        transform._images = StoredImages.of(dataset, self.image_column)
        transform._alone = OneSize(self.processor)
        transform.bits = stated_bits((dataset.features or {}).get(self.image_column))
        return transform

    def _decoded(self, values: Sequence[Any]) -> dict[str, Any]:
        """Return the columns of images and their ids, of values of the image column."""
        processors: Mapping[str, Callable[[Sequence[PILImage.Image]], Tensor]] = self._pixels or {PIXELS: self._alone}
        made: dict[str, list[Tensor]] = {name: [] for name in processors}
        ids: list[int] = []
        for images in _handfuls(map(self._converted, values)):
            for name, processor in processors.items():
                made[name].append(processor(images))
            ids += [sample_id(image) for image in images] if self.sample_ids else []
        tensors = {name: parts[0] if len(parts) == 1 else torch.cat(parts) for name, parts in made.items()}
        return {**tensors, SAMPLE_IDS: ids}

    def _label(self, label: object) -> int:
        """Return a label of a batch, checked; -100 where there is none."""
        if label is None or (isinstance(label, int) and label < 0):
            if self.unlabelled:
                return NO_LABEL
            raise SampleError(
                f"column {self.label_column!r} holds a row without a label (None or a negative number). Drop such "
                "rows, pass unlabelled=True to train on them beside the others, or label_column=None to train without "
                "labels."
            )
        if not isinstance(label, int):
            number = f": dataset.class_encode_column({self.label_column!r})" if isinstance(label, str) else ""
            raise SampleError(
                f"column {self.label_column!r} holds the label {label!r}, and every image has one class here, a whole "
                f"number{number}"
            )
        return label

    def picture(self, value: object) -> PILImage.Image:
        """Return a value of the image column as a picture of whatever mode: decoded, if it is stored.

        Raises:
            TypeError: If it is something else.
            SampleError: If it cannot be read.
        """
        if value is None or (isinstance(value, Mapping) and "bytes" in value):
            return decoded(value or {}, self._images, self.least_side)
        if not isinstance(value, PILImage.Image):
            raise TypeError(
                f"column {self.image_column!r} holds {type(value).__name__}, not PIL images; "
                f"cast it first: dataset.cast_column({self.image_column!r}, datasets.Image())"
            )
        return value

    def _converted(self, value: object) -> PILImage.Image:
        try:
            picture = converted(self.picture(value), self.mode, self.bits)
            return picture if self.corruption is None else self.corruption(picture)
        except SampleError:
            raise
        except ValueError as error:
            raise SampleError(f"{self._images.name(value)} {error}") from error


def _handfuls(images: Iterable[PILImage.Image]) -> Iterator[list[PILImage.Image]]:
    """Yield images, a few small ones or one large one at a time, while they still lie in the processor's cache.

    A batch of photographs that were all decoded first would be read from the memory again for its ids, and again to be
    resized, in memory that the system has to hand out anew for each of them.
    """
    handful: list[PILImage.Image] = []
    pixels = 0
    for image in images:
        handful.append(image)
        pixels += image.width * image.height
        if pixels >= _PIXELS_AT_ONCE:
            yield handful
            handful, pixels = [], 0
    if handful:
        yield handful


def prepare(dataset: Dataset | IterableDataset, transform: ImageTransform) -> Dataset | IterableDataset:
    """Return the data set with `transform` applied when rows are read; only the columns it needs are decoded.

    `DistillationTrainer` knows of such a data set; with another trainer set ``remove_unused_columns=False``: the
    columns are replaced while reading, which ``Trainer`` cannot see.

    Raises:
        ValueError: If a column is missing, a label is no class number, or the first images would be nearly black.

    Example:
        >>> from datasets import Dataset
        >>> from PIL import Image
        >>> from transformers import ViTImageProcessorPil
        >>> rows = Dataset.from_dict({"image": [Image.new("L", (30, 40))] * 2, "label": [3, 4]})
        >>> prepared = prepare(rows, ImageTransform(ViTImageProcessorPil(size={"height": 24, "width": 24})))
        >>> prepared[1]["pixel_values"].shape, prepared[1]["labels"]
        (torch.Size([3, 24, 24]), 4)
    """
    check_columns(dataset, transform.image_column, transform.label_column, unlabelled=transform.unlabelled)
    transform = transform.of(dataset)
    stored = (dataset.features or {}).get(transform.image_column)
    if isinstance(stored, Image):
        # The transform decodes, so that it can name an image that is damaged.
        if stored.decode:
            dataset = dataset.cast_column(transform.image_column, replace(stored, decode=False))
        _check_bits(dataset, transform)
    if isinstance(dataset, IterableDataset):
        stream = dataset.select_columns(transform.columns).map(
            transform, batched=True, batch_size=STREAMING_BATCH_SIZE, remove_columns=transform.columns
        )
        feature = (dataset.features or {}).get(transform.label_column or "")
        if isinstance(feature, ClassLabel):
            _NAMES_OF_STREAMS[stream] = tuple(feature.names), str(transform.label_column)
        return stream
    return dataset.with_transform(transform, columns=transform.columns)


def _check_bits(dataset: Dataset | IterableDataset, transform: ImageTransform) -> None:
    """Refuse 16-bit images that would be nearly black; other images end the search at the first."""
    if transform.bits is not None:
        return
    rows = dataset.select_columns([transform.image_column])
    if isinstance(rows, Dataset):
        # Without a transform that it may have already.
        rows = rows.with_format(None).select(
            sorted({int(row) for row in np.linspace(0, len(rows) - 1, _LOOKED_AT)}) if len(rows) else []
        )
    images = (transform.picture(row[transform.image_column]) for row in rows.take(_LOOKED_AT))
    problem = unused_bits(itertools.takewhile(is_deep_grey, images))
    if problem is not None:
        raise ValueError(f"column {transform.image_column!r}: {problem}")


# A stream forgets its features when its columns are replaced.
_NAMES_OF_STREAMS: WeakKeyDictionary[IterableDataset, tuple[tuple[str, ...], str]] = WeakKeyDictionary()


def class_names_of_stream(stream: IterableDataset) -> tuple[tuple[str, ...], str] | None:
    """Return the class names of a stream that `prepare` returned, and the column of its labels; None if unknown."""
    return _NAMES_OF_STREAMS.get(stream)
