"""Writing a cache: run a teacher over views of the images of a data set, and store what it says."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from torch import nn
from transformers import BaseImageProcessor, default_data_collator

from hf_abkd.data.augment import augmentation_name
from hf_abkd.data.hashes import pixel_hashes
from hf_abkd.data.machines import found_by_all
from hf_abkd.data.pixel_cache.writing import write_pixels
from hf_abkd.data.preprocessing import Preprocessing
from hf_abkd.data.reloading import backend_of
from hf_abkd.data.shared_images import SharedImages
from hf_abkd.data.table.manifest import FORMAT, MANIFEST_NAME, Manifest, as_json, manifest_differences
from hf_abkd.data.table.missing_shards import check_space, write_missing
from hf_abkd.data.table.shards import Shard
from hf_abkd.data.table.table_writer import TableWriter
from hf_abkd.data.table.target_table import TargetTable
from hf_abkd.data.transform import SAMPLE_IDS
from hf_abkd.models.expected_images import PIXELS
from hf_abkd.models.kept_state import frozen
from hf_abkd.models.label_spaces import id2label_of
from hf_abkd.models.license import license_of
from hf_abkd.models.outputs import LOGITS
from hf_abkd.models.placement import device_of, is_sharded, put_on
from hf_abkd.models.tasks.image_classification import IMAGE_CLASSIFICATION
from hf_abkd.teachers.cache.encoding import encode
from hf_abkd.teachers.cache.processor import PROCESSOR_NAME, check_reloadable, processor_json
from hf_abkd.teachers.cache.settings import CacheSettings
from hf_abkd.teachers.cache.stored_layers import StoredLayers
from hf_abkd.teachers.cache.teacher_cache import IMAGES_NAME, TeacherCache
from hf_abkd.teachers.cache.teacher_images import batches_of, prepared_for_teacher, spread_places
from hf_abkd.teachers.cache.view_runner import ViewRunner, check_repeatable
from hf_abkd.teachers.identity import reference
from hf_abkd.wording import by, listed

logger = logging.getLogger(__name__)

# By which a data set is told from another. With fewer than two images nothing can be traced.
_FIRST_IMAGES = 3


def write_cache(
    folder: str | Path,
    teacher: nn.Module,
    processor: BaseImageProcessor,
    dataset: Dataset,
    settings: CacheSettings | None = None,
    *,
    image_column: str = "image",
    num_channels: int = 3,
    name: str = "",
    device: torch.device | str | None = None,
    keep_images: bool = False,
    reduced_decoding: bool = False,
) -> TeacherCache:
    """Store what a teacher says of the images of a data set, or go on where an earlier call was interrupted.

    Of a call that was made before and is complete, what is there is returned. Under a launcher (`accelerate launch`,
    `torchrun`) every process writes its share, and all return the whole.

    Args:
        folder: Where the cache will be. Until it is complete there is only `<folder>.incomplete`.
        teacher: The teacher; it is moved to the device, if it has no `device_map`, and otherwise left as it is.
        processor: Its image processor, which needs one fixed size.
        dataset: The images, as `datasets` decodes them.
        settings: What is stored; by default all logits and the boundaries of the last activation of each stage.
        image_column: The column with the images.
        num_channels: 1 for grey or 3 for RGB, as the teacher's `config.num_channels`.
        name: What the data set is called, for the card.
        device: Where the teacher runs; by default the device of the process.
        keep_images: Whether the images are kept too, as the processor resizes and crops them: runs on this cache then
            decode none. They lie in `<folder>/images`, and in `<folder>.images` until the cache is complete.
        reduced_decoding: Whether large JPEG files are decoded at smaller scales, see
            `hf_abkd.data.transform.ImageTransform`; `TeacherCache.transform` then does so, too.

    Raises:
        OSError: If the disk has too little space.
        FileExistsError: If the folder holds a complete cache of something else, or no cache; what differs is named.
        ValueError: If a name, the processor, the augmentation or the images are not possible, another cache was begun
            there, or the teacher's answers cannot be stored (not finite, or beyond float16), or it is sharded, or a
            complete cache is of images that were decoded otherwise.

    Example:
        cache = write_cache(
            "targets", teacher, teacher_processor, dataset, CacheSettings(views=4, augmentation=RandomHorizontalFlip())
        )
        images = prepare(dataset, cache.transform(student_processor))
        DistillationTrainer(student, teacher=cache, train_dataset=images, ...).train()
    """
    state = PartialState()
    if not isinstance(dataset, Dataset) or not len(dataset):
        raise ValueError(
            "a cache is written of a datasets.Dataset with rows: one split, and no stream (leave out --streaming); "
            f"got {f'{type(dataset).__name__} without any' if isinstance(dataset, Dataset) else type(dataset)}"
        )
    if is_sharded(teacher):
        raise ValueError(
            f"the teacher {type(teacher).__name__} lies in parts in the processes, which have to see every batch "
            "together, and each of them writes a share of the cache by itself. Load it in each with a device_map or in "
            "fewer bits, or train with it live"
        )
    with frozen(teacher):
        put_on(teacher, state.device if device is None else device)
        images = _Images(dataset, processor, image_column, num_channels, name, reduced_decoding)
        if keep_images:
            images.keep(Path(folder))
        writer = _Writer(Path(folder), teacher, images, settings or CacheSettings(), state)
        cache = writer.written_before() or writer.run()
    if keep_images:
        _move_images(Path(folder), state)
    return cache


def images_beside(folder: Path) -> Path:
    """Return where the images of a cache lie until it is complete: a folder is put in its place empty or whole."""
    return folder.with_name(f"{folder.name}.images")


def _move_images(folder: Path, state: PartialState) -> None:
    """Put the images that were kept into the folder of a complete cache."""
    state.wait_for_everyone()
    if state.is_main_process and images_beside(folder).exists():
        images_beside(folder).replace(folder / IMAGES_NAME)
    state.wait_for_everyone()


class _Images:
    """The images of a data set as the teacher sees them, and what tells them from those of another."""

    def __init__(
        self,
        dataset: Dataset,
        processor: BaseImageProcessor,
        image_column: str,
        num_channels: int,
        name: str,
        reduced_decoding: bool,
    ) -> None:
        self.processor, self.channels, self.name = processor, num_channels, name
        self.reduced_decoding = reduced_decoding
        self.preprocessing = Preprocessing.measured(processor, num_channels)
        check_reloadable(processor, num_channels)
        self.rows = prepared_for_teacher(
            dataset, processor, image_column, num_channels, reduced_decoding=reduced_decoding
        )
        #: A batch of a few images from all over the data set.
        self.few = default_data_collator([self.rows[place] for place in spread_places(len(dataset), _FIRST_IMAGES)])

    def keep(self, folder: Path) -> None:
        """Write the pixels of all images, unless they are there, and read them from there."""
        kept = folder / IMAGES_NAME
        self.rows = write_pixels(kept if kept.exists() else images_beside(folder), self.rows).attach(self.rows)

    def facts(self) -> dict[str, Any]:
        """Return what tells the data set from another, as JSON holds it."""
        some = {"ids": self.few[SAMPLE_IDS].tolist(), "pixels": pixel_hashes(self.few[PIXELS]).tolist()}
        return {"name": self.name, "images": len(self.rows), "some": some}


class _Writer:
    """One call of `write_cache`."""

    def __init__(
        self, folder: Path, teacher: nn.Module, images: _Images, settings: CacheSettings, state: PartialState
    ) -> None:
        self.folder, self.images, self.settings, self.state = folder, images, settings, state
        self.shared_images = SharedImages(images.preprocessing)
        device = device_of(teacher)
        pixels = self.shared_images.canvas(images.few[PIXELS].to(device))
        if settings.augmentation is not None:
            check_repeatable(settings.augmentation, pixels, images.few[SAMPLE_IDS].to(device), settings.seed)
        layers = StoredLayers(teacher, settings, pixels)
        self.runner = ViewRunner(teacher, layers.points, settings.precision)
        examples = self.runner.probe({PIXELS: pixels})
        self.columns = layers.columns(examples, settings)
        if any(column.name == LOGITS for column in self.columns):
            IMAGE_CLASSIFICATION.check_prediction(examples[LOGITS], teacher, "teacher")
        self.runner.speed_up({PIXELS: pixels}, layers.boundaries)
        self.identity = _identity(teacher, images, settings, layers, classes=examples[LOGITS].shape[1])
        self.license = license_of(teacher)

    def written_before(self) -> TeacherCache | None:
        """Return the cache that is complete in the folder, None if there is none."""
        if not found_by_all(self.folder / MANIFEST_NAME):
            return None
        cache = TeacherCache(TargetTable.open(self.folder))
        # Otherwise ids would be named that nobody knows.
        cache.check_decoding(self.images.reduced_decoding)
        wanted = Manifest(
            FORMAT, as_json(self.identity), tuple(self.columns), len(self.images.rows), self.settings.views
        )
        if differences := manifest_differences(cache.table.manifest, wanted):
            raise FileExistsError(
                f"{self.folder} holds a complete cache of something else: {listed(differences, 2)}.\nTrain from it as "
                "it is, or choose another folder for this one (or delete that one)"
            )
        if self.state.is_main_process:
            logger.warning("%s is complete already: nothing was written", self.folder)
        return cache

    def run(self) -> TeacherCache:
        """Write what is missing, and put the cache in its place."""
        table = TableWriter(
            self.folder,
            identity=self.identity,
            columns=self.columns,
            samples=len(self.images.rows),
            views=self.settings.views,
        )
        check_space(self.folder, table.missing_bytes)
        write_missing(table, self._rows_of_shards, self.state, doing="caching")
        if self.state.is_main_process:
            table.finish(self._card_facts(), {PROCESSOR_NAME: processor_json(self.images.processor)})
        self.state.wait_for_everyone()
        return TeacherCache(TargetTable.open(self.folder))

    def _rows_of_shards(
        self, shards: Sequence[Shard], report: Callable[[int], object]
    ) -> Iterator[Iterator[dict[str, Any]]]:
        return (self._rows(shard, report) for shard in shards)

    def _rows(self, shard: Shard, report: Callable[[int], object]) -> Iterator[dict[str, Any]]:
        """Yield the rows of a shard, in order, batch by batch."""
        places = range(shard.start, shard.stop)
        views = self.settings.views
        for batch in batches_of(self.images.rows, places, self.settings.batch_size, self.settings.workers):
            hashes, ids = pixel_hashes(batch[PIXELS]), batch[SAMPLE_IDS].numpy()
            each = [self._stored(batch, view) for view in range(views)]
            yield {
                "sample_id": ids.repeat(views),
                "pixels": hashes.repeat(views),
                "view": np.tile(np.arange(views, dtype=np.int32), len(ids)),
                **{column.name: _interleaved([stored[column.name] for stored in each]) for column in self.columns},
            }
            report(len(ids) * views)

    def _stored(self, batch: Mapping[str, Any], view: int) -> dict[str, Any]:
        """Return the targets of one view of a batch, as the table holds them."""
        said = self.runner(batch, self.shared_images, self.settings.augmentation, self.settings.seed, view)
        # What is not a number anywhere in a network is none in its logits either, and a bit would not show it.
        if broken := (~said[LOGITS].isfinite().all(1)).nonzero()[:, 0].tolist():
            ids = batch[SAMPLE_IDS][broken[:8]].tolist()
            raise ValueError(
                f"the teacher's logits are not finite for {len(broken)} images of a batch (sample ids {ids}, view "
                f"{view}); nothing it says of them can be learnt. Check its precision and these images"
            )
        return {column.name: encode(said[column.name], column) for column in self.columns}

    def _card_facts(self) -> dict[str, Any]:
        """Return what the card says beside the columns."""
        return {
            "dataset": self.images.name or "not named",
            "teacher": self.identity["teacher"],
            **({} if self.license is None else {"license of the teacher": self.license}),
            "processor": type(self.images.processor).__name__,
            "augmentation": self.identity["augmentation"],
            "seed": self.settings.seed,
            "image size": by(self.images.preprocessing.size),
            **({"decoding": "large JPEG files at smaller scales"} if self.images.reduced_decoding else {}),
            "precision": self.settings.precision,
            "usage": "Train from it with `DistillationTrainer(student, teacher=<its id or folder>, ...)` on "
            "images prepared by `TeacherCache.load(...).transform(processor)`, or with `--teacher_name_or_path`.",
        }


def _identity(
    teacher: nn.Module, images: _Images, settings: CacheSettings, layers: StoredLayers, *, classes: int
) -> dict[str, Any]:
    """Return what the targets depend on. It is compared word by word with that of a cache that was begun before."""
    names = id2label_of(teacher)
    return {
        "teacher": {**reference(teacher), "parameters": sum(part.numel() for part in teacher.parameters())},
        "classes": classes,
        "id2label": None if names is None else {str(index): str(label) for index, label in names.items()},
        "precision": settings.precision,
        "image_size": list(images.preprocessing.size),
        "channels": images.channels,
        "processor": json.loads(images.processor.to_json_string()),
        "backend": backend_of(images.processor),
        "augmentation": augmentation_name(settings.augmentation),
        "seed": settings.seed,
        "data": images.facts(),
        "points": layers.points,
        "layers": layers.facts,
        # Older caches are of images that were decoded in full, and do not tell it.
        **({"reduced_decoding": True} if images.reduced_decoding else {}),
    }


def _interleaved(views: Sequence[Any]) -> Any:
    """Bring the rows of several views next to each other, sample by sample."""
    if isinstance(views[0], Mapping):
        return {name: _interleaved([view[name] for view in views]) for name in views[0]}
    return np.stack(views, axis=1).reshape(-1, *views[0].shape[1:])
