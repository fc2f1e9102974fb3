"""TeacherCache: what a teacher said of the images of a data set, in the place of the teacher.

The targets are those of certain views of certain images. So whatever a run does with them is checked against what
was written: the image by its hash, the pixels that views are made of by theirs, the augmentation, its seed and the
number of views by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from torch import Tensor
from transformers import BaseImageProcessor

from hf_abkd.data.augment import Augmentation, augmentation_name
from hf_abkd.data.draws import Draws
from hf_abkd.data.pixel_cache.pixel_cache import PixelCache
from hf_abkd.data.reloading import stored_processor
from hf_abkd.data.shared_images import SharedImages
from hf_abkd.data.table.columns import Column
from hf_abkd.data.table.manifest import MANIFEST_NAME
from hf_abkd.data.table.target_table import TargetTable
from hf_abkd.data.transform import ImageTransform
from hf_abkd.layers.layout import Layout
from hf_abkd.layers.sites import Trace
from hf_abkd.models.outputs import LOGITS
from hf_abkd.teachers.cache import encoding
from hf_abkd.teachers.cache.cache_identity import CachedLayer, read_identity, site_of
from hf_abkd.teachers.cache.finding import is_local_cache

_COMPARED_IMAGES = 16
#: The folder in a cache with the pixels of the images, if they are kept.
IMAGES_NAME = "images"


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

    Example:
        cache = TeacherCache.load("targets")  # a folder, or a data set repository on the Hub
        images = prepare(dataset, cache.transform(student_processor))
        DistillationTrainer(student, teacher=cache, train_dataset=images, ...).train()
    """

    def __init__(self, table: TargetTable) -> None:
        self.table = table
        identity = read_identity(table)
        self.reference: dict[str, Any] = dict(identity.teacher)
        self.classes: int = identity.classes
        names = identity.id2label
        self.id2label = None if names is None else {int(index): name for index, name in names.items()}
        self.augmentation: str = identity.augmentation
        self.seed: int = identity.seed
        self.views: int = table.views
        self.image_size: tuple[int, int] = identity.image_size
        self.channels: int = identity.channels
        self.precision: str = identity.precision
        #: Whether large JPEG files were decoded at smaller scales.
        self.reduced_decoding: bool = identity.reduced_decoding
        #: Where each tensor was read, by the name of its column.
        self.points: dict[str, Any] = identity.points
        self._backend: str | None = identity.backend
        self._layers: dict[str, CachedLayer] = identity.layers
        self._sites = [site for layer in identity.layers.values() if (site := site_of(layer, table.folder)) is not None]

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
    def pixel_cache(self) -> PixelCache | None:
        """The images that views are made of, if they were kept with it."""
        folder = self.table.folder / IMAGES_NAME
        return PixelCache.load(folder) if (folder / MANIFEST_NAME).is_file() else None

    @cached_property
    def trace(self) -> Trace:
        """What a forward pass of the teacher showed of the activations whose boundaries are stored."""
        if not self._sites:
            raise ValueError(
                f"the cache {self.table.folder} holds no boundaries of activations, so no layers can be paired with "
                f"them: it has {self._stored()}. Name layers that it has, or write a cache with boundaries."
            )
        return Trace(self.image_size, tuple(sorted(self._sites, key=lambda site: site.depth)), {}, ())

    def transform(
        self,
        processor: BaseImageProcessor,
        *,
        image_column: str = "image",
        label_column: str | None = "label",
        unlabelled: bool = False,
    ) -> ImageTransform:
        """Return the transform that prepares training images for a student as the teacher saw them.

        Args:
            processor: The student's image processor.
            image_column: The column of the images.
            label_column: The column of the labels; None leaves them out.
            unlabelled: Whether rows may have no label.
        """
        return ImageTransform(
            processor,
            teacher_processor=self.processor,
            teacher_canvas=True,
            num_channels=self.channels,
            reduced_decoding=self.reduced_decoding,
            image_column=image_column,
            label_column=label_column,
            unlabelled=unlabelled,
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
            known = [LOGITS] if name == LOGITS else self._layers[name].names
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
        return None if column.name == LOGITS else self._layers[column.name].layout

    def example(self, column: Column, count: int) -> Tensor:
        """Return what a target of a column looks like for so many images: its shape, with nothing in it."""
        if column.name == LOGITS:
            return torch.zeros(count, self.classes)
        return encoding.example(column, count)

    def check_run(self, augmentation: Augmentation | None, seed: int | None, views: int | None) -> None:
        """Refuse a run whose students would see other views than the teacher did.

        Args:
            augmentation: That of the run.
            seed: The seed of its views, if one was asked for.
            views: Likewise how many there are of each image.

        Raises:
            ValueError: If they differ from those of the cache; both are named.
        """
        for what, of_cache, of_run, remedy in (
            ("augmentation", self.augmentation, augmentation_name(augmentation), "augment in the same way"),
            ("augmentation_seed", self.seed, seed, "leave it out"),
            ("augmentation_views", self.views, views, "leave it out"),
        ):
            if of_run is not None and of_cache != of_run:
                raise ValueError(
                    f"the {what} of the cached teacher is {of_cache}, and that of this run {of_run}: the student would "
                    f"see other images than the teacher saw. For {self.table.folder}, {remedy}; or write another cache."
                )

    def check_decoding(self, reduced_decoding: bool) -> None:
        """Refuse a run that decodes images otherwise than they were decoded for the teacher.

        Raises:
            ValueError: If it does.
        """
        if reduced_decoding != self.reduced_decoding:
            how, do = ("at smaller scales", "give") if self.reduced_decoding else ("in full", "leave out")
            raise ValueError(
                f"the images of the cached teacher {self.table.folder} were decoded {how}, and their targets are those "
                f"of other pixels than this run decodes: {do} --reduced_decoding, or write another cache"
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
        return {name: encoding.decode((cached or {})[column.name], column) for name, column in columns.items()}
