"""TeacherCache: what a teacher said of the images of a data set, in the place of the teacher.

The targets are those of certain views of certain images. So whatever a run does with them is checked against what
was written: the image by its hash, the pixels that views are made of by theirs, the augmentation, its seed and the
number of views by name.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError
from torch import Tensor
from transformers import AutoImageProcessor, BaseImageProcessor

from hf_abkd.data.augment import Augmentation, augmentation_name
from hf_abkd.data.batch import CACHED_TARGETS
from hf_abkd.data.draws import Draws
from hf_abkd.data.shared_images import SharedImages
from hf_abkd.data.transform import SAMPLE_IDS, ImageTransform, signed_hash
from hf_abkd.layers.layout import Layout
from hf_abkd.layers.sites import Site, Trace
from hf_abkd.models.outputs import LOGITS
from hf_abkd.teachers.cache.table import MANIFEST_NAME, Column, TargetTable

logger = logging.getLogger(__name__)

Collator = Callable[[Sequence[Any]], dict[str, Any]]

_IDENTITY = {"teacher", "classes", "id2label", "augmentation", "seed", "image_size", "channels", "backend", "layers"}
_COMPARED_IMAGES = 16


class TeacherCache:
    """The stored targets of a teacher; it takes the teacher's place in `DistillationTrainer`.

    Args:
        table: The targets, as `hf_abkd.teachers.cache.writing.write_cache` wrote them.

    Attributes:
        reference: The teacher: class, name and fingerprint.
        classes: How many classes it predicts.
        id2label: Their names, if it has any.
        augmentation: What the views were made by, in words.
        seed: The seed of the views.
        views: How many views there are of each image.
        image_size: Height and width of the images that views are made of.
    """

    def __init__(self, table: TargetTable) -> None:
        self.table = table
        identity = table.identity
        if lacking := _IDENTITY - set(identity):
            raise ValueError(f"{table.folder} is a table, but no cache of a teacher: it lacks {sorted(lacking)}")
        self.reference: dict[str, Any] = identity["teacher"]
        self.classes: int = identity["classes"]
        names: dict[str, str] | None = identity["id2label"]
        self.id2label = None if names is None else {int(index): name for index, name in names.items()}
        self.augmentation: str = identity["augmentation"]
        self.seed: int = identity["seed"]
        self.views: int = table.views
        self.image_size: tuple[int, int] = tuple(identity["image_size"])
        self.channels: int = identity["channels"]
        self._backend: str | None = identity["backend"]
        self._layers: dict[str, dict[str, Any]] = identity["layers"]

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
    ) -> TeacherCache:
        """Open a cache: a local folder, or else a data set repository on the Hub, which is downloaded.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it is damaged, or of a newer version of this package.
        """
        remedy = "`hf-abkd cache` writes one. To train with the teacher itself, load the model and pass it"
        if is_local_cache(name):
            return cls(TargetTable.open(name))
        if isinstance(name, Path) or name.startswith((".", "/", "~")) or Path(name).exists():
            raise FileNotFoundError(f"there is no cache of a teacher in {str(name)!r}; {remedy}")
        try:
            return cls(TargetTable.from_hub(name, revision=revision, token=token, cache_dir=cache_dir))
        except (HFValidationError, HfHubHTTPError, OSError) as error:
            raise FileNotFoundError(
                f"{name!r} is no folder, and no cache of a teacher could be loaded from the Hub by that name: {error} "
                f"({remedy})"
            ) from error

    @cached_property
    def processor(self) -> BaseImageProcessor:
        """The image processor of the teacher."""
        return stored_processor(self.table.folder, self._backend)

    @cached_property
    def trace(self) -> Trace:
        """What a forward pass of the teacher showed of the activations whose boundaries are stored."""
        layers = [layer for layer in self._layers.values() if layer["site"] is not None]
        if not layers:
            raise ValueError(
                f"the cache {self.table.folder} holds no boundaries of activations, so no layers can be paired with "
                f"them: it has {self._stored()}. Name layers that it has, or write a cache with boundaries."
            )
        sites = [_site(layer["site"], layer["layout"]) for layer in layers]
        return Trace(self.image_size, tuple(sorted(sites, key=lambda site: site.depth)), {}, (), ())

    def transform(self, processor: BaseImageProcessor, **settings: Any) -> ImageTransform:
        """Return the transform that prepares training images for a student as the teacher saw them.

        Args:
            processor: The student's image processor.
            **settings: `image_column` and `label_column` of `ImageTransform`.
        """
        return ImageTransform(
            processor,
            teacher_processor=self.processor,
            teacher_canvas=True,
            num_channels=self.channels,
            **settings,
        )

    def column(self, wanted: str, *, boundary: bool, reader: str = "a term") -> Column:
        """Return the column that holds a tensor of the teacher.

        Args:
            wanted: The tensor, as terms name it: a module, or "logits".
            boundary: Whether the sides of its boundaries are wanted, and not its values.
            reader: Who asks, for the error.

        Raises:
            ValueError: If it is not stored.
        """
        if wanted == LOGITS:
            # Of the logits that top-k leaves out nobody knows the sign.
            kinds = ("logits",) if boundary else ("logits", "topk")
        else:
            kinds = ("bits",) if boundary else ("float16",)
        for name, column in self.table.columns.items():
            known = [LOGITS] if name == LOGITS else self._layers[name]["names"]
            if column.kind in kinds and wanted in known:
                return column
        raise ValueError(
            f"{reader} compares {'boundaries' if boundary else 'values'} with those of the teacher at "
            f"{'its logits' if wanted == LOGITS else repr(wanted)}, and the cache {self.table.folder} holds "
            f"{self._stored()}. Name one of these, or write a cache with it "
            "(`hf-abkd cache --layers ... --features ... --logits ...`)."
        )

    def _stored(self) -> list[str]:
        return [f"{name} ({column.kind})" for name, column in self.table.columns.items()]

    def layout(self, column: Column) -> Layout | None:
        """Return how a row of a column lies."""
        return None if column.name == LOGITS else _layout(self._layers[column.name]["layout"])

    def example(self, column: Column, count: int) -> Tensor:
        """Return what a target of a column looks like for so many images: its shape, with nothing in it."""
        if column.name == LOGITS:
            return torch.zeros(count, self.classes)
        return torch.zeros(count, *column.shape, dtype=torch.bool if column.kind == "bits" else torch.float32)

    def check_run(self, augmentation: Augmentation | None, seed: int | None, views: int | None) -> None:
        """Refuse a run whose students would see other views than the teacher did.

        Args:
            augmentation: That of the run.
            seed: The seed of its views, if one was asked for.
            views: Likewise how many there are of each image.

        Raises:
            ValueError: If they differ from those of the cache; both are named.
        """
        for what, own, other, remedy in (
            ("augmentation", self.augmentation, augmentation_name(augmentation), "augment in the same way"),
            ("augmentation_seed", self.seed, seed, "leave it out"),
            ("augmentation_views", self.views, views, "leave it out"),
        ):
            if other is not None and own != other:
                raise ValueError(
                    f"the {what} of the cached teacher is {own}, and that of this run {other}: the student would "
                    f"see other images than the teacher saw. For {self.table.folder}, {remedy}; or write another cache."
                )

    def check_colours(self, augmentation: Augmentation | None, shared_images: SharedImages) -> None:
        """Refuse an augmentation that would show the student other images because its colours are not the teacher's.

        Images are augmented in the colours of the student, and those of the cached teacher were in its own. A crop is
        the same in both; noise of a certain strength is not.

        Args:
            augmentation: That of the run.
            shared_images: What student and teacher each make of a shared image.

        Raises:
            ValueError: If the views differ.
        """
        student, teacher = shared_images.student_preprocessing, shared_images.teacher_preprocessing
        if augmentation is None or student.colour_map().inverse().then(teacher.colour_map()).is_identity:
            return
        generator = torch.Generator().manual_seed(0)
        shape = (_COMPARED_IMAGES, self.channels, *self.image_size)
        pixels = torch.randint(256, shape, generator=generator, dtype=torch.uint8)

        def seen(of: SharedImages) -> Tensor:
            draws = Draws.of_views(self.seed, torch.arange(_COMPARED_IMAGES), 0)
            return of.teacher(augmentation(of.canvas(pixels), draws))

        ours, theirs = seen(shared_images), seen(SharedImages(teacher))
        if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.std())):
            raise ValueError(
                f"{augmentation_name(augmentation)} changes colours, and those of the student are not the cached "
                f"teacher's (black is {student.offset} here and {teacher.offset} there): the student would see other "
                "images than the teacher saw. Give the student's processor the teacher's image_mean and image_std, or "
                "leave colours alone."
            )

    def decode(self, cached: Mapping[str, Any] | None, columns: Mapping[str, Column]) -> dict[str, Tensor]:
        """Return the targets of a batch by the names that terms use, on the device of the batch.

        Boundaries stay packed, (N, bytes) uint8; all others are float32.

        Args:
            cached: What `CachedTargets` put into the batch.
            columns: The column behind each name.

        Raises:
            ValueError: If the batch has no cached targets.
        """
        if columns and cached is None:
            raise ValueError("the batch has no cached targets; it does not come from the training set of this trainer")
        return {name: _values((cached or {})[column.name], column) for name, column in columns.items()}


class CachedTargets:
    """A collator that puts the teacher's targets of one view of each image into the batch.

    It works in the workers of a data loader, so that reading goes on while the student trains.

    Args:
        collator: Makes a batch of rows.
        cache: The targets.
        columns: The columns to read; those that the terms of a stage need.
        images: The name of the images in a batch.
        view: Which view, (), int64, in shared memory: the trainer sets it from epoch to epoch.
    """

    def __init__(
        self, collator: Collator, cache: TeacherCache, columns: Sequence[str], images: str, view: Tensor
    ) -> None:
        self.collator = collator
        self.cache = cache
        self.columns = tuple(dict.fromkeys(columns))
        self.images = images
        self.view = view

    def __call__(self, rows: Sequence[Any]) -> dict[str, Any]:
        """Return a batch with its targets.

        Raises:
            ValueError: If the images are not those that the teacher saw, or not prepared in the same way.
        """
        batch = dict(self.collator(rows))
        table, pixels = self.cache.table, batch.get(self.images)
        if not isinstance(pixels, Tensor) or pixels.dtype != torch.uint8 or SAMPLE_IDS not in batch:
            raise ValueError(
                f"the rows of the training set have no ids or no pixels ({sorted(batch)}), by which the targets of a "
                "cached teacher are found and checked. Prepare it with prepare(dataset, cache.transform(processor))."
            )
        places = table.rows(batch[SAMPLE_IDS].numpy(), int(self.view))
        found = table.read(places, ["pixels", *self.columns])
        other = found.pop("pixels") != pixel_hashes(pixels)
        if other.any():
            raise ValueError(
                f"{other.sum()} of {len(other)} images are prepared otherwise than those that the teacher saw "
                f"({tuple(pixels.shape[1:])} here, images of {self.cache.image_size} there): its targets would belong "
                "to other pictures. Prepare them with cache.transform(processor), by the versions of transformers and "
                "Pillow that the cache was written with, or write the cache again."
            )
        batch[CACHED_TARGETS] = as_tensors(found)
        return batch


def stored_processor(folder: str | Path, backend: str | None) -> BaseImageProcessor:
    """Return the image processor whose settings lie in a folder.

    Args:
        folder: The folder.
        backend: Which library resizes ("pil", "torchvision"): the settings do not tell, and the pixels differ. None
            takes what transformers prefers.
    """
    processor: BaseImageProcessor = AutoImageProcessor.from_pretrained(folder, backend=backend, trust_remote_code=False)
    return processor


def is_local_cache(name: str | Path) -> bool:
    """Whether there is a cached teacher in a folder, complete or not."""
    folder, begun = Path(name), f".{MANIFEST_NAME}"
    paths = (folder / MANIFEST_NAME, folder / begun, Path(f"{folder}.incomplete", begun))
    return any(path.is_file() for path in paths)


def is_hub_cache(
    name: str, *, revision: str | None = None, token: str | None = None, cache_dir: str | None = None
) -> bool:
    """Whether a name is that of a data set repository with a cached teacher, on the Hub or downloaded before."""
    if Path(name).exists() or name.startswith((".", "/", "~")):
        return False
    options: dict[str, Any] = {"revision": revision, "token": token, "cache_dir": cache_dir}
    try:
        hf_hub_download(name, MANIFEST_NAME, repo_type="dataset", **options)
    except (HFValidationError, HfHubHTTPError, EntryNotFoundError, OSError):
        return False
    return True


def as_tensors(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return arrays, or mappings of them, as tensors that share their memory."""
    return {
        name: as_tensors(array) if isinstance(array, Mapping) else torch.from_numpy(array)
        for name, array in arrays.items()
    }


def pixel_hashes(pixels: Tensor) -> np.ndarray:
    """Return a hash of each image, (N,) int64, of pixels (N, C, H, W) uint8."""
    shape = str(tuple(pixels.shape[1:])).encode()
    return np.array([signed_hash(shape, image) for image in pixels.contiguous().numpy()], np.int64)


def topk_columns(logits: Tensor, count: int) -> dict[str, np.ndarray]:
    """Return the largest logits, (N, count), which classes they are, and the logsumexp of the others, (N,)."""
    values, indices = logits.float().topk(count, dim=1)
    rest = logits.float().scatter(1, indices, -math.inf).logsumexp(1)
    return {
        "values": values.half().cpu().numpy(),
        "indices": indices.int().cpu().numpy(),
        "rest": rest.cpu().numpy(),
    }


def layer_facts(names: Sequence[str], site: Site | None, layout: Layout | None) -> dict[str, Any]:
    """Return what a cache tells of a layer, as JSON holds it.

    Args:
        names: The names by which terms may call it.
        site: The activation whose boundary it is; None for another tensor.
        layout: How it lies.
    """
    about = None if site is None else {key: value for key, value in asdict(site).items() if key != "layout"}
    return {"names": list(names), "site": about, "layout": None if layout is None else asdict(layout)}


def _values(stored: Any, column: Column) -> Tensor:
    if column.kind == "bits":
        bits: Tensor = stored
        return bits
    if column.kind != "topk":
        values: Tensor = stored
        return values.float()
    # The classes left out share what is left of the probability evenly.
    left_out = column.shape[1] - column.shape[0]
    rest = stored["rest"][:, None] - math.log(max(left_out, 1))
    logits: Tensor = rest.repeat(1, column.shape[1]).scatter(1, stored["indices"].long(), stored["values"].float())
    return logits


def _layout(stored: Mapping[str, Any] | None) -> Layout | None:
    if stored is None:
        return None
    grid, positions = stored["grid"], stored["positions"]
    return Layout(
        stored["order"],
        None if grid is None else (grid[0], grid[1]),
        stored["special_tokens"],
        None if positions is None else tuple(positions),
    )


def _site(stored: Mapping[str, Any], layout: Mapping[str, Any] | None) -> Site:
    return Site(**{**stored, "shape": tuple(stored["shape"]), "layout": _layout(layout)})
