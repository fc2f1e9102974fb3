"""Caching: run a teacher over views of the images of a data set, and store what it says; `TeacherCache` reads it."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from tqdm.auto import tqdm
from transformers import BaseImageProcessor, default_data_collator

from hf_abkd.boundaries.packing import pack_signs, unpack_signs
from hf_abkd.data.augment import Augmentation, augmentation_name
from hf_abkd.data.batch import read_batch
from hf_abkd.data.draws import Draws
from hf_abkd.data.preprocessing import Preprocessing, same_preprocessing
from hf_abkd.data.shared_images import SharedImages
from hf_abkd.data.transform import SAMPLE_IDS, ImageTransform, prepare
from hf_abkd.layers.boundary_points import resolve_boundaries
from hf_abkd.layers.capture import CapturePoint
from hf_abkd.layers.layout import Layout
from hf_abkd.layers.module_kinds import is_boundary_activation
from hf_abkd.layers.module_names import find_module, parse_name
from hf_abkd.layers.pairing import propose
from hf_abkd.layers.sites import Site, Trace
from hf_abkd.layers.tracing import trace
from hf_abkd.models.kept_state import evaluating
from hf_abkd.models.label_spaces import match_labels
from hf_abkd.models.outputs import LOGITS
from hf_abkd.teachers.cache.table import Column, Shard, TableWriter, TargetTable
from hf_abkd.teachers.cache.teacher_cache import (
    TeacherCache,
    as_tensors,
    layer_facts,
    pixel_hashes,
    stored_processor,
    topk_columns,
)
from hf_abkd.teachers.live import LiveTeacher, reference

logger = logging.getLogger(__name__)

PRECISIONS: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# Of the spread of responses. A batch of another size is computed in another order, and on a GPU float32 convolutions
# may round to the 10 bits of TF32.
_TOLERANCES = {"fp32": 5e-3, "fp16": 1e-2, "bf16": 5e-2}
# Float16 has 11 significant bits.
_HALF = 2.0**-10
_LARGEST_HALF = 65504.0
_FIRST_IMAGES = 3
_PROCESSOR_NAME = "preprocessor_config.json"


@dataclass(frozen=True)
class Recipe:
    """What is stored of a teacher, and of which views.

    Args:
        layers: Modules whose boundaries are stored, one bit for each unit, as terms name them. None takes the last
            activation of each stage, up to four, as the automatic pairing would.
        features: Modules whose values are stored, in float16, as terms name them.
        logits: How many of the largest logits are stored, with the remaining mass; None for all, 0 for none.
        views: How many augmented views there are of each image.
        augmentation: What makes them; None stores the images as they are.
        seed: The seed of the views.
        precision: What the teacher computes in: fp32, bf16 or fp16.
        batch_size: How many images it sees at once.
        workers: Processes that decode images for it.

    Raises:
        ValueError: If a setting is not possible.
    """

    layers: Sequence[str] | None = None
    features: Sequence[str] = ()
    logits: int | None = None
    views: int = 1
    augmentation: Augmentation | None = None
    seed: int = 42
    precision: str = "fp32"
    batch_size: int = 64
    workers: int = 0

    def __post_init__(self) -> None:
        """Check what can be checked without a teacher."""
        for what, names in (("layers", self.layers), ("features", self.features)):
            if isinstance(names, str):
                raise ValueError(f"{what} must be a list of names, got the text {names!r}: write [{names!r}]")
        if self.views < 1 or self.batch_size < 1 or self.workers < 0:
            raise ValueError(
                f"views and batch_size must be 1 or more and workers 0 or more, got {self.views}, {self.batch_size} "
                f"and {self.workers}"
            )
        if self.views > 1 and self.augmentation is None:
            raise ValueError(
                f"{self.views} views were asked for and no augmentation: they would be the same. Give an augmentation, "
                "or store one view"
            )
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {list(PRECISIONS)}, got {self.precision!r}")
        if self.logits is not None and self.logits < 0:
            raise ValueError(f"logits must be how many to store, 0 for none or None for all; got {self.logits}")
        if self.logits == 0 and self.layers is not None and not self.layers and not self.features:
            raise ValueError("nothing to store: no layers, no features and no logits")
        augmentation_name(self.augmentation)


def write_cache(
    folder: str | Path,
    teacher: nn.Module,
    processor: BaseImageProcessor,
    dataset: Dataset,
    recipe: Recipe | None = None,
    *,
    image_column: str = "image",
    num_channels: int = 3,
    name: str = "",
    device: torch.device | str | None = None,
) -> TeacherCache:
    """Store what a teacher says of the images of a data set, or go on where an earlier call was interrupted.

    Under a launcher (`accelerate launch`, `torchrun`) every process writes its share, and all return the whole.

    Args:
        folder: Where the cache will be. Until it is complete there is only `<folder>.incomplete`.
        teacher: The teacher; it is moved to the device, and otherwise left as it is.
        processor: Its image processor, which needs one fixed size.
        dataset: The images, as `datasets` decodes them.
        recipe: What is stored; by default all logits and the boundaries of the last activation of each stage.
        image_column: The column with the images.
        num_channels: 1 for grey or 3 for RGB, as the teacher's `config.num_channels`.
        name: What the data set is called, for the card.
        device: Where the teacher runs; by default the device of the process.

    Raises:
        FileExistsError: If the folder is complete already, or holds something else.
        ValueError: If a name, the processor, the augmentation or the images are not possible, another cache was begun
            there, or the teacher's answers cannot be stored (not finite, or beyond float16).
    """
    with _borrowed(teacher):
        writer = _Writer(
            Path(folder), teacher, processor, dataset, recipe or Recipe(), image_column, num_channels, name, device
        )
        return writer.run()


@dataclass(frozen=True)
class Deviation:
    """How far stored targets lie from those that a live teacher gives.

    Args:
        column: Which targets.
        kind: How they are stored.
        values: How many were compared.
        moved: How many bits are on the other side of their boundary, for whatever reason.
        differing: How many differ by more than storing explains: bits on the other side of the boundary, or values
            beyond the rounding of float16.
        largest: The largest distance: of a bit on the other side the teacher's response, in units of the spread of
            the responses; of values the difference, in units of their spread.
    """

    column: str
    kind: str
    values: int
    moved: int
    differing: int
    largest: float


def verify(
    cache: TeacherCache,
    teacher: nn.Module,
    dataset: Dataset,
    samples: int,
    *,
    augmentation: Augmentation | None = None,
    image_column: str = "image",
    batch_size: int = 64,
    tolerance: float | None = None,
) -> list[Deviation]:
    """Compute some samples again with the live teacher, every view of them, and compare.

    Args:
        cache: The stored targets.
        teacher: The teacher.
        dataset: The images.
        samples: How many, spread evenly over the data set.
        augmentation: That of the cache.
        image_column: The column with the images.
        batch_size: How many images the teacher sees at once.
        tolerance: How far a response may lie from its boundary, in units of the spread of all responses, for its side
            to be a matter of rounding; values get as much beside the rounding of float16. By default what suits the
            precision of the cache.

    Raises:
        ValueError: If the teacher, the augmentation or an answer is not that of the cache; both sides are named.
    """
    theirs = reference(teacher)
    if theirs["fingerprint"] != cache.reference["fingerprint"]:
        raise ValueError(f"{cache.table.folder} was written with another teacher: {cache.reference}, not {theirs}")
    cache.check_run(augmentation, None, None)
    if tolerance is None:
        tolerance = _TOLERANCES[cache.table.identity["precision"]]
    with _borrowed(teacher):
        deviations = _deviations(cache, teacher, dataset, samples, augmentation, image_column, batch_size, tolerance)
    if wrong := [deviation for deviation in deviations if deviation.differing]:
        raise ValueError(
            f"{cache.table.folder} does not hold what the teacher says: "
            + "; ".join(
                f"{one.column}: {one.differing} of {one.values} differ, by up to {one.largest:.3g} of the spread"
                for one in wrong
            )
        )
    return deviations


def _deviations(
    cache: TeacherCache,
    teacher: nn.Module,
    dataset: Dataset,
    samples: int,
    augmentation: Augmentation | None,
    image_column: str,
    batch_size: int,
    tolerance: float,
) -> list[Deviation]:
    """Return how far the targets of some samples lie from what the teacher says now."""
    runner = _Runner(teacher, cache.table.identity["points"], cache.table.identity["precision"])
    places = np.unique(np.linspace(0, len(dataset) - 1, min(samples, len(dataset))).round().astype(int))
    transform = ImageTransform(
        cache.processor,
        teacher_processor=cache.processor,
        num_channels=cache.channels,
        image_column=image_column,
        label_column=None,
    )
    loader = _loader(Subset(prepare(dataset, transform), places.tolist()), batch_size, 0)
    shared_images = SharedImages(Preprocessing.measured(cache.processor, cache.channels))
    found: dict[str, list[tuple[Tensor, Any]]] = {}
    for batch in loader:
        for view in range(cache.views):
            live = runner(batch, shared_images, augmentation, cache.seed, view)
            rows = cache.table.rows(batch[SAMPLE_IDS].numpy(), view)
            if (cache.table.read(rows, ["pixels"])["pixels"] != pixel_hashes(batch["pixel_values"])).any():
                raise ValueError(
                    f"the images of {cache.table.folder} were prepared otherwise than these: by another processor, or "
                    "another version of transformers or Pillow"
                )
            for name, stored in cache.table.read(rows, list(cache.table.columns)).items():
                found.setdefault(name, []).append((live[name].cpu(), stored))
    return [_deviation(cache.table.columns[name], pairs, tolerance) for name, pairs in found.items()]


def accuracy(
    cache: TeacherCache,
    dataset: Dataset,
    labels: Sequence[str],
    *,
    image_column: str = "image",
    label_column: str = "label",
    samples: int = 1000,
) -> tuple[float, float] | None:
    """Return the accuracy of the stored logits on some labelled images, and what guessing would give; shares in [0, 1].

    None if no logits are stored, or the teacher predicts other classes.

    Args:
        cache: The stored targets.
        dataset: The images and their labels.
        labels: The names of the classes.
        image_column: The column with the images.
        label_column: The column with the labels.
        samples: How many images are looked at, spread evenly over the data set.
    """
    match = match_labels(dict(enumerate(labels)), cache.id2label, len(labels), cache.classes)
    if LOGITS not in cache.table.columns or match.kind in ("disjoint", "unknown"):
        return None
    transform = cache.transform(cache.processor, image_column=image_column, label_column=label_column)
    places = np.linspace(0, len(dataset) - 1, min(samples, len(dataset))).round().astype(int)
    truth, said = [], []
    for batch in _loader(Subset(prepare(dataset, transform), places.tolist()), 64, 0):
        rows = cache.table.rows(batch[SAMPLE_IDS].numpy(), 0)
        cached = cache.table.read(rows, [LOGITS])
        logits = cache.decode(as_tensors(cached), {LOGITS: cache.table.columns[LOGITS]})[LOGITS]
        said.append(match.teacher_in_student_space(logits).argmax(1))
        truth.append(batch["labels"])
    answers, right = torch.cat(said), torch.cat(truth)
    return (answers == right).float().mean().item(), (right.bincount().max() / len(right)).item()


@contextmanager
def _borrowed(teacher: nn.Module) -> Iterator[None]:
    """Leave a teacher as it was: which parameters are trained, and every module's mode."""
    trained = [parameter for parameter in teacher.parameters() if parameter.requires_grad]
    with evaluating(teacher):
        try:
            yield
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)


class _Runner:
    """Runs a teacher on views of images, in the precision of a cache."""

    def __init__(self, teacher: nn.Module, points: Mapping[str, Sequence[str]], precision: str) -> None:
        self.device = next((parameter.device for parameter in teacher.parameters()), torch.device("cpu"))
        dtype = PRECISIONS[precision]

        def context() -> AbstractContextManager[Any]:
            return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype=dtype)

        self.teacher = LiveTeacher(teacher, context)
        self.points = {name: CapturePoint(module, _side(side)) for name, (module, side) in points.items()}
        self.teacher.select(self.points)
        self._probed = False

    def probe(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Find out what is overwritten in place; return the tensors of these images."""
        self._probed = True
        return self.teacher.probe(inputs)

    def speed_up(self, inputs: Mapping[str, Any], boundaries: Iterable[str]) -> None:
        """Run what a live run would run from now on, and return no more of these tensors than their sides."""
        self.teacher.optimize(inputs, self.points)
        self.teacher.select(self.points, boundaries=boundaries)

    def __call__(
        self,
        batch: Mapping[str, Any],
        shared_images: SharedImages,
        augmentation: Augmentation | None,
        seed: int,
        view: int,
    ) -> dict[str, Tensor]:
        """Return the logits and the tensors at all points for one view of the images of a batch."""
        inputs = {name: tensor.to(self.device) for name, tensor in batch.items()}

        def augment(images: Tensor, samples: Tensor | None) -> Tensor:
            if augmentation is None or samples is None:
                return images
            return augmentation(images, Draws.of_views(seed, samples, view))

        prepared = read_batch(
            inputs, images="pixel_values", labels="labels", shared_images=shared_images, augment=augment
        )
        if not self._probed:
            self.probe(prepared.teacher())
        return self.teacher(prepared.teacher())


class _Writer:
    """One call of `write_cache`."""

    def __init__(
        self,
        folder: Path,
        teacher: nn.Module,
        processor: BaseImageProcessor,
        dataset: Dataset,
        recipe: Recipe,
        image_column: str,
        num_channels: int,
        name: str,
        device: torch.device | str | None,
    ) -> None:
        self.state = PartialState()
        if not isinstance(dataset, Dataset) or not len(dataset):
            raise ValueError(
                "a cache is written of a datasets.Dataset with rows: one split, and no stream (leave out --streaming); "
                f"got {f'{type(dataset).__name__} without any' if isinstance(dataset, Dataset) else type(dataset)}"
            )
        self.folder, self.recipe, self.name, self.channels = folder, recipe, name, num_channels
        teacher.to(self.state.device if device is None else device)
        self.processor, self.preprocessing = processor, Preprocessing.measured(processor, num_channels)
        _check_reloadable(processor, num_channels)
        transform = ImageTransform(
            processor,
            teacher_processor=processor,
            image_column=image_column,
            label_column=None,
            num_channels=num_channels,
        )
        self.images = prepare(dataset, transform)
        first = default_data_collator([self.images[place] for place in self._few(len(dataset))])
        self.first_images = {
            "ids": first[SAMPLE_IDS].tolist(),
            "pixels": pixel_hashes(first["pixel_values"]).tolist(),
        }
        self.shared_images = SharedImages(self.preprocessing)
        device_ = next((parameter.device for parameter in teacher.parameters()), torch.device("cpu"))
        pixels = self.shared_images.canvas(first["pixel_values"].to(device_))
        if recipe.augmentation is not None:
            _check_repeatable(recipe.augmentation, pixels, first[SAMPLE_IDS].to(device_), recipe.seed)
        layers = _Layers(teacher, recipe, pixels)
        self.runner = _Runner(teacher, layers.points, recipe.precision)
        examples = self.runner.probe({"pixel_values": pixels})
        self.classes = examples[LOGITS].shape[1]
        self.columns = layers.columns(examples, recipe, self.classes)
        self.runner.speed_up({"pixel_values": pixels}, layers.boundaries)
        self.identity = self._identity(teacher, layers)
        self.writer = TableWriter(
            folder,
            identity=self.identity,
            columns=self.columns,
            samples=len(dataset),
            views=recipe.views,
        )

    @staticmethod
    def _few(rows: int) -> list[int]:
        """Return a few rows from all over the data set; with fewer than two images nothing can be traced."""
        places = np.linspace(0, rows - 1, _FIRST_IMAGES).round().astype(int).tolist()
        return [int(place) for place in places]

    def _identity(self, teacher: nn.Module, layers: _Layers) -> dict[str, Any]:
        names = getattr(getattr(teacher, "config", None), "id2label", None)
        about = reference(teacher)
        if Path(about["name_or_path"]).exists():
            # What is published need not tell how folders are called here.
            about["name_or_path"] = Path(about["name_or_path"]).name
        return {
            "teacher": {**about, "parameters": sum(part.numel() for part in teacher.parameters())},
            "classes": self.classes,
            "id2label": None if names is None else {str(index): str(label) for index, label in names.items()},
            "precision": self.recipe.precision,
            "image_size": list(self.preprocessing.size),
            "channels": self.channels,
            "processor": json.loads(self.processor.to_json_string()),
            "backend": _backend(self.processor),
            "augmentation": augmentation_name(self.recipe.augmentation),
            "seed": self.recipe.seed,
            "data": {"name": self.name, "images": len(self.images), "some": self.first_images},
            "points": layers.points,
            "layers": layers.facts,
        }

    def run(self) -> TeacherCache:
        """Write what is missing, and put the cache in its place."""
        todo = [shard for shard in self.writer.shards if not shard.done]
        # A process that looked after another had written its first shard would share them out otherwise.
        self.state.wait_for_everyone()
        own = todo[self.state.process_index :: self.state.num_processes]
        rows = sum(shard.stop - shard.start for shard in own) * self.recipe.views
        done = len(self.images) * self.recipe.views - sum(s.stop - s.start for s in todo) * self.recipe.views
        if done and self.state.is_main_process:
            logger.warning("going on with %s.incomplete: %s rows of it are written", self.folder, f"{done:,}")
        with tqdm(total=rows, unit="row", desc="caching", disable=not self.state.is_main_process) as progress:
            for shard in own:
                self.writer.write(shard, self._rows(shard, progress.update))
        self.state.wait_for_everyone()
        if self.state.is_main_process:
            self.writer.finish(self._facts(), {_PROCESSOR_NAME: _processor_json(self.processor)})
        self.state.wait_for_everyone()
        return TeacherCache(TargetTable.open(self.folder))

    def _rows(self, shard: Shard, report: Callable[[int], object]) -> Iterator[dict[str, Any]]:
        """Yield the rows of a shard, in order, batch by batch."""
        loader = _loader(
            Subset(self.images, range(shard.start, shard.stop)), self.recipe.batch_size, self.recipe.workers
        )
        number = self.recipe.views
        for batch in loader:
            hashes, ids = pixel_hashes(batch["pixel_values"]), batch[SAMPLE_IDS].numpy()
            each = [self._stored(batch, view) for view in range(number)]
            yield {
                "sample_id": ids.repeat(number),
                "pixels": hashes.repeat(number),
                "view": np.tile(np.arange(number, dtype=np.int32), len(ids)),
                **{column.name: _interleaved([stored[column.name] for stored in each]) for column in self.columns},
            }
            report(len(ids) * number)

    def _stored(self, batch: Mapping[str, Any], view: int) -> dict[str, Any]:
        """Return the targets of one view of a batch, as the table holds them."""
        said = self.runner(batch, self.shared_images, self.recipe.augmentation, self.recipe.seed, view)
        # What is not a number anywhere in a network is none in its logits either, and a bit would not show it.
        if not bool(said[LOGITS].isfinite().all()):
            raise ValueError("the teacher's logits are not finite; nothing it says can be learnt. Check its precision")
        return {column.name: _encoded(said[column.name], column) for column in self.columns}

    def _facts(self) -> dict[str, Any]:
        """Return what the card says beside the columns."""
        return {
            "dataset": self.name or "not named",
            "teacher": self.identity["teacher"],
            "processor": type(self.processor).__name__,
            "augmentation": self.identity["augmentation"],
            "seed": self.recipe.seed,
            "image size": "x".join(map(str, self.preprocessing.size)),
            "precision": self.recipe.precision,
            "usage": "Train from it with `DistillationTrainer(student, teacher=<its id or folder>, ...)` on "
            "images prepared by `TeacherCache.load(...).transform(processor)`, or with `--teacher_name_or_path`.",
        }


class _Layers:
    """Which tensors of a teacher are stored, and how they lie."""

    def __init__(self, teacher: nn.Module, recipe: Recipe, pixels: Tensor) -> None:
        runner = LiveTeacher(teacher)

        def forward(images: Tensor) -> Tensor:
            return runner.logits({"pixel_values": images})

        features: dict[str, CapturePoint] = {}
        for name in recipe.features:
            module, side = parse_name(teacher, name)
            features[name] = CapturePoint(module, side or "output")
        with torch.no_grad():
            named = recipe.layers or []
            boundaries = resolve_boundaries(teacher, named, lambda: forward(pixels)) if named else {}
        found = trace(teacher, forward, pixels, {*boundaries.values(), *features.values()})
        sites = {site.point: site for site in found.sites}
        if recipe.layers is None:
            boundaries = {site.module: site.point for site in _stage_ends(found)}
        layouts: dict[CapturePoint, Layout | None] = {
            **found.layouts,
            **{point: site.layout for point, site in sites.items() if site.layout is not None},
        }
        self.points: dict[str, list[str]] = {}
        self.facts: dict[str, Any] = {}
        self.boundaries: set[str] = set()
        for kind, points in (("bits", boundaries), ("values", features)):
            for name, point in points.items():
                key = str(point) if kind == "bits" else f"values of {point}"
                names = [name, *self.facts.get(key, {"names": []})["names"], str(point)]
                activation = is_boundary_activation(find_module(teacher, point.module)) and point.side == "input"
                # A boundary may be called by its activation, and an output by its module.
                names += [point.module] if (activation if kind == "bits" else point.side == "output") else []
                self.points[key] = [point.module, point.side]
                site: Site | None = sites.get(point) if kind == "bits" else None
                self.facts[key] = layer_facts(list(dict.fromkeys(names)), site, layouts.get(point))
                if kind == "bits":
                    self.boundaries.add(key)

    def columns(self, examples: Mapping[str, Tensor], recipe: Recipe, classes: int) -> list[Column]:
        """Return the columns of the table, from an example of each tensor."""
        result = []
        if recipe.logits is None or recipe.logits >= classes:
            result.append(Column(LOGITS, "logits", (classes,)))
        elif recipe.logits:
            result.append(Column(LOGITS, "topk", (recipe.logits, classes)))
        for key in self.points:
            kind: Any = "bits" if key in self.boundaries else "float16"
            result.append(Column(key, kind, tuple(examples[key].shape[1:])))
        return result


def _stage_ends(found: Trace) -> list[Site]:
    """Return the activations that represent a teacher's stages: those it would be paired with itself by."""
    try:
        return [pair.teacher for pair in propose(found, found)]
    except ValueError as error:
        reason = str(error).partition(": ")[2]
        raise ValueError(
            f"the teacher shows no boundaries that could be stored by themselves: {reason} Or give layers=[] to store "
            "none (--layers without a name)."
        ) from error


def _check_reloadable(processor: BaseImageProcessor, channels: int) -> None:
    """Refuse a processor that the cache could not bring along: hours later nobody could prepare an image by it."""
    problem = "it then prepares images otherwise"
    with TemporaryDirectory() as folder:
        Path(folder, _PROCESSOR_NAME).write_text(_processor_json(processor), encoding="utf-8")
        try:
            again = stored_processor(folder, _backend(processor))
            if same_preprocessing(processor, again, channels):
                return
        except (ImportError, OSError, TypeError, ValueError) as error:
            problem = str(error)
    raise ValueError(
        f"{type(processor).__name__} cannot be stored with the cache and loaded by AutoImageProcessor: {problem}. "
        "Use a processor of transformers with the same settings, or register yours (AutoImageProcessor.register)."
    )


def _check_repeatable(augmentation: Augmentation, images: Tensor, samples: Tensor, seed: int) -> None:
    """Refuse an augmentation whose view of an image cannot be made again, by a student in another batch."""
    once = augmentation(images, Draws.of_views(seed, samples, 0))
    again = augmentation(images.flip(0), Draws.of_views(seed, samples.flip(0), 0)).flip(0)
    if once.shape != again.shape or not torch.allclose(once, again, rtol=1e-4, atol=1e-4):
        raise ValueError(
            f"{augmentation_name(augmentation)} makes another view of the same image each time, or one that depends on "
            "the batch, so students could not see what the teacher saw. Take all random numbers from its second "
            "argument, hf_abkd.data.draws.Draws, and treat each image by itself."
        )


def _loader(images: Any, batch_size: int, workers: int) -> Any:
    return DataLoader(images, batch_size=batch_size, num_workers=workers, collate_fn=default_data_collator)


def _encoded(said: Tensor, column: Column) -> Any:
    """Return a target as the table holds it."""
    if column.kind == "bits":
        return pack_signs(said).cpu().numpy()
    if column.kind == "topk":
        return topk_columns(said, column.shape[0])
    largest = float(said.abs().max())
    if not largest <= _LARGEST_HALF:
        raise ValueError(
            f"{column.name} of the teacher reaches {largest:.3g}, and float16, in which it is stored, "
            f"{_LARGEST_HALF:g}. "
            "Compare its boundaries, which have one bit, or another layer"
        )
    return said.half().cpu().numpy()


def _interleaved(views: Sequence[Any]) -> Any:
    """Bring the rows of several views next to each other, sample by sample."""
    if isinstance(views[0], Mapping):
        return {name: _interleaved([view[name] for view in views]) for name in views[0]}
    return np.stack(views, axis=1).reshape(-1, *views[0].shape[1:])


def _deviation(column: Column, pairs: Sequence[tuple[Tensor, Any]], tolerance: float) -> Deviation:
    """Compare what a live teacher says, (N, ...), with what is stored, batch by batch."""
    values = moved = differing = 0
    largest = 0.0
    for live, stored in pairs:
        spread = float(live.float().std()) or 1.0
        if column.kind == "bits":
            sides = unpack_signs(torch.from_numpy(stored), column.shape)
            other = (live > 0) != sides
            moved += int(other.sum())
            distance = torch.where(other, live.float().abs(), 0.0) / spread
            allowed = torch.full_like(distance, tolerance)
        else:
            ours, theirs = _numbers(live.float(), as_tensors({"": stored})[""])
            distance = ((ours - theirs).abs() / spread).nan_to_num(nan=math.inf)
            allowed = ours.abs() * _HALF / spread + tolerance
        values += distance.numel()
        differing += int((distance > allowed).sum())
        largest = max(largest, float(distance.max()))
    return Deviation(column.name, column.kind, values, moved, differing, largest)


def _numbers(live: Tensor, stored: Any) -> tuple[Tensor, Tensor]:
    """Return what a teacher says and what is stored of it, (N, ...), both float32."""
    if not isinstance(stored, Mapping):
        return live, stored.float()
    values, indices = stored["values"].float(), stored["indices"].long()
    largest, classes = live.topk(values.shape[1], dim=1).values, live.shape[1]
    # Of logits that are nearly equal either may come first, so the stored classes are looked up.
    there = live.gather(1, indices.clamp(0, classes - 1)).where((indices >= 0) & (indices < classes), math.nan)
    rest = live.scatter(1, indices.clamp(0, classes - 1), -math.inf).logsumexp(1)
    return torch.cat([largest, there, rest[:, None]], 1), torch.cat([values, values, stored["rest"][:, None]], 1)


def _backend(processor: BaseImageProcessor) -> str | None:
    backend: str | None = getattr(processor, "backend", None)
    return backend


def _processor_json(processor: BaseImageProcessor) -> str:
    return json.dumps(json.loads(processor.to_json_string()), indent=2) + "\n"


def _side(side: str) -> Any:
    return side
