"""DeepInversion: images out of a teacher alone, to distil from it without its data."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import BaseImageProcessor, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_abkd.data.preprocessing import Preprocessing
from hf_abkd.data.transform import ImageTransform
from hf_abkd.methods.deep_inversion.image_grid import save_grid
from hf_abkd.methods.deep_inversion.image_quality import Quality, measure_quality
from hf_abkd.methods.deep_inversion.image_shards import (
    DATA_FOLDER,
    GrowingImages,
    ImageShards,
    check_made_from,
    write_json,
)
from hf_abkd.methods.deep_inversion.inversion import GREY, PRESETS, UNIT, DeepInversion, Sight, channels_of, invert
from hf_abkd.methods.deep_inversion.norm_statistics import batch_norms
from hf_abkd.models.kept_state import frozen
from hf_abkd.teachers.live import reference
from hf_abkd.training.progress import Span

__all__ = ["PRESETS", "AdaptiveDeepInversion", "DeepInversion", "Synthesized", "invert", "synthesize"]

QUALITY_NAME = "quality.json"
PREVIEW_NAME = "previews.png"
# Separates the random numbers of a batch from those of its labels.
_NOISE, _LABELS = 0, 1


class Synthesized(NamedTuple):
    """What `synthesize` made.

    Attributes:
        dataset: The images: `image`, `label`, `teacher_confidence` (of the label, of the stored image), `batch`.
        quality: What they are worth.
        folder: Where they are.
    """

    dataset: datasets.Dataset
    quality: Quality
    folder: Path


def balanced_labels(classes: Sequence[int], start: int, count: int, *, seed: int) -> list[int]:
    """Return the classes of images number `start` and following: all classes in a drawn order, again and again.

    Any first so many images of a set hold each class as often as another, up to one; and what class an image has does
    not depend on how the set is cut into batches.
    """
    size = len(classes)
    labels: list[int] = []
    for number in range(start, start + count):
        turn, place = divmod(number, size)
        if not labels or place == 0:
            order = np.random.default_rng([seed % 2**64, _LABELS, turn]).permutation(size)
        labels.append(classes[int(order[place])])
    return labels


def synthesize(
    teacher: nn.Module,
    processor: BaseImageProcessor,
    folder: str | Path,
    *,
    num_images: int,
    batch_size: int = 256,
    settings: DeepInversion | None = None,
    classes: Sequence[int | str] | None = None,
    seed: int = 0,
    student: nn.Module | None = None,
    student_processor: BaseImageProcessor | None = None,
    verifier: nn.Module | None = None,
    verifier_processor: BaseImageProcessor | None = None,
    previews: int = 64,
    show_progress: bool = True,
) -> Synthesized:
    """Make a data set out of a teacher, without any data: a folder that `datasets.load_dataset` reads.

    The folder holds parquet files of PNG images (`data/`), a grid of some of them (`previews.png`), what they are
    worth (`quality.json`), what they were made from (`settings.json`), and a card. Until all is there its name ends in
    `.incomplete`. A call that was interrupted goes on where it was when it is made again, and the result is the same:
    every batch depends on seed and number alone. A call for a folder that is complete returns what is there.

    The images are divided into batches of nearly equal size: BatchNorm statistics of a small last one would say little.

    Args:
        teacher: A classifier with BatchNorm statistics; it runs on the device where it is.
        processor: Its image processor, which tells size and colours of the images.
        folder: Where to.
        num_images: How many images.
        batch_size: How many are optimised together, at most.
        settings: How; by default the paper's for CIFAR-10.
        classes: Which classes, by number or name, equally often; by default all. One named twice comes twice as often.
        seed: Seed of noise, jitter and order of the classes.
        student: A student for Adaptive DeepInversion. `AdaptiveDeepInversion` follows one while it is trained.
        student_processor: The student's image processor; by default the teacher's.
        verifier: Another trained model, whose accuracy on the images says whether they are more than what fools the
            teacher.
        verifier_processor: Its image processor; by default the teacher's.
        previews: How many images the grid shows, 0 for no grid.
        show_progress: Whether to show a progress bar.

    Raises:
        ValueError: If the teacher has no BatchNorm statistics, a class or number is not possible, or the folder was
            begun with other settings, or cannot be replaced.
        FileExistsError: If the folder holds something else, or is a file.
        RuntimeError: If the loss is not finite.
    """
    settings = settings or DeepInversion()
    for name, value, least in (("num_images", num_images, 1), ("batch_size", batch_size, 1), ("previews", previews, 0)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    batch_norms(teacher)
    names = class_names(teacher, processor)
    chosen = _classes(classes, names)
    maker = _Maker(teacher, processor, settings, seed, student, student_processor if student is not None else None)
    made_from = maker.made_from() | {
        "num_images": num_images,
        "batch_size": batch_size,
        "classes": chosen,
    }
    folder = _replaceable(Path(folder))
    unfinished = folder.with_name(folder.name + ".incomplete")
    check_made_from(folder, made_from)
    batches = -(-num_images // batch_size)
    judges = {"verifier": verifier, "verifier_processor": verifier_processor}
    if (folder / QUALITY_NAME).is_file():
        return _complete(ImageShards(folder, made_from, names), batches, maker, judges)
    shards = ImageShards(unfinished, made_from, names)
    bounds = [num_images * index // batches for index in range(batches + 1)]
    steps = settings.iterations + settings.coarse_iterations
    with tqdm(total=batches * steps, disable=not show_progress, unit="step", desc="synthesize") as bar:
        for index, (start, stop) in enumerate(itertools.pairwise(bounds)):
            if shards.has(index):
                bar.update(steps)
                continue
            bar.set_description(f"batch {index + 1}/{batches}")
            labels = balanced_labels(chosen, start, stop - start, seed=seed)
            maker.write(shards, index, labels, _told(bar))
    if previews:
        save_grid(_first_images(shards, previews), unfinished / PREVIEW_NAME)
    quality = _describe(shards, batches, maker, judges)
    for leftover in (unfinished / DATA_FOLDER).glob(".*.unfinished"):
        leftover.unlink()
    if folder.is_dir():
        folder.rmdir()  # empty, or it would have been refused
    unfinished.replace(folder)
    return Synthesized(_loaded(folder), quality, folder)


def _replaceable(folder: Path) -> Path:
    """Return the folder, or what it links to, if a finished one can be put there: after hours it is too late to ask."""
    # Not the path as it was given: pathlib takes "." for a mount point.
    place = folder.resolve()
    if place.exists() and not place.is_dir():
        raise FileExistsError(f"{place} is a file; choose a folder that is empty or not there")
    for kind, found in (("a mount point", place.is_mount()), ("the current folder", place == Path.cwd())):
        if found:
            raise ValueError(
                f"{place} is {kind}, which cannot be replaced when all images are made; choose a folder in it, such "
                f"as {place / 'images'}"
            )
    return place if folder.is_symlink() else folder


def _complete(shards: ImageShards, batches: int, maker: _Maker, judges: Mapping[str, Any]) -> Synthesized:
    """Return what was made before; a verifier that is given is asked anew, as another one may have been before."""
    missing = [index for index in range(batches) if not shards.has(index)]
    if missing:
        raise ValueError(f"{shards.folder} has lost its batches {missing[:5]}; delete it to make the images again")
    known = json.loads((shards.folder / QUALITY_NAME).read_text(encoding="utf-8"))
    quality = Quality(**{field.name: known[field.name] for field in fields(Quality)})
    if judges["verifier"] is not None:
        quality = _describe(shards, batches, maker, judges)
    return Synthesized(_loaded(shards.folder), quality, shards.folder)


def _describe(shards: ImageShards, batches: int, maker: _Maker, judges: Mapping[str, Any]) -> Quality:
    """Measure the images, and write that down beside them."""
    parts = (shards.read(index)[:2] for index in range(batches))
    quality = measure_quality(maker.teacher, maker.processor, parts, **judges)
    curves = [shards.about(index)["r_feature"] for index in range(batches)]
    curve = [[int(points[0][0]), float(np.mean([v for _, v in points]))] for points in zip(*curves, strict=True)]
    card = _card(maker.made_from()["teacher"], quality, with_previews=(shards.folder / PREVIEW_NAME).is_file())
    (shards.folder / "README.md").write_text(card, encoding="utf-8")
    verifier = None if judges["verifier"] is None else reference(judges["verifier"])
    write_json(shards.folder / QUALITY_NAME, {**quality.as_json(), "verifier": verifier, "r_feature_curve": curve})
    return quality


def class_names(teacher: nn.Module, processor: BaseImageProcessor) -> list[str]:
    """Return a name for each class of a teacher: those of its config, or numbers."""
    channels = channels_of(teacher)
    eye = Sight(teacher, processor, channels)
    device = next((p.device for p in teacher.parameters()), torch.device("cpu"))
    with frozen(teacher), torch.no_grad():
        count = eye.logits(torch.zeros(2, channels, *eye.preprocessing.size, device=device)).shape[1]
    named = getattr(getattr(teacher, "config", None), "id2label", None) or {}
    names = [str(named.get(index, index)) for index in range(count)]
    return names if len(set(names)) == count else [str(index) for index in range(count)]


def _classes(classes: Sequence[int | str] | None, names: Sequence[str]) -> list[int]:
    if classes is None:
        return list(range(len(names)))
    if not classes:
        raise ValueError("classes is empty: name the classes to make images of, or leave it out for all")
    chosen = []
    for one in classes:
        index = names.index(one) if one in names else int(one) if str(one).isdecimal() else -1
        if not 0 <= index < len(names):
            known = ", ".join(f"{i} {name}" for i, name in list(enumerate(names))[:20])
            raise ValueError(
                f"the teacher has no class {one!r}; it has {len(names)}: {known}{', ...' if len(names) > 20 else ''}"
            )
        chosen.append(index)
    return chosen


@dataclass(frozen=True)
class _Maker:
    """Makes batches of images and stores them."""

    teacher: nn.Module
    processor: BaseImageProcessor
    settings: DeepInversion
    seed: int
    student: nn.Module | None = None
    student_processor: BaseImageProcessor | None = None

    def made_from(self) -> dict[str, Any]:
        """Return everything that decides what the images look like."""
        channels = channels_of(self.teacher)
        made_from: dict[str, Any] = {
            "teacher": reference(self.teacher),
            "view": asdict(Preprocessing.measured(self.processor, channels)),
            "settings": asdict(self.settings),
            "seed": self.seed,
        }
        if self.student is not None:
            made_from["student"] = reference(self.student)
        if self.student_processor is not None:
            made_from["student_view"] = asdict(Preprocessing.measured(self.student_processor, channels))
        return made_from

    def write(
        self,
        shards: ImageShards,
        index: int,
        labels: Sequence[int],
        on_step: Callable[[int, float], None] | None = None,
        **about: Any,
    ) -> None:
        """Make batch number `index` of these classes, and store it with what is to be known of it."""
        pixels, curve = invert(
            self.teacher,
            self.processor,
            labels,
            self.settings,
            seed=[self.seed, _NOISE, index],
            student=self.student,
            student_processor=self.student_processor,
            on_step=on_step,
        )
        # Of what a reader of the file will see, not of what was optimised.
        eye = Sight(self.teacher, self.processor, pixels.shape[1])
        device = next((p.device for p in self.teacher.parameters()), torch.device("cpu"))
        with frozen(self.teacher), torch.no_grad():
            logits = eye.logits(((pixels.float() - GREY) / UNIT).to(device))
        confidence = logits.softmax(1).cpu()[torch.arange(len(labels)), torch.tensor(labels)].tolist()
        shards.write(index, pixels, labels, confidence, {"r_feature": curve, **about})


def _told(bar: Any) -> Callable[[int, float], None]:
    def told(step: int, r_feature: float) -> None:
        if not math.isnan(r_feature):
            bar.set_postfix(r_feature=f"{r_feature:.3g}", refresh=False)
        bar.update()

    return told


def _first_images(shards: ImageShards, count: int) -> list[Any]:
    images: list[Any] = []
    for index in range(shards.count()):
        images += shards.read(index)[0]
        if len(images) >= count:
            break
    return images[:count]


def _loaded(folder: Path) -> datasets.Dataset:
    files = sorted(str(file) for file in (folder / DATA_FOLDER).glob("*.parquet"))
    loaded: datasets.Dataset = datasets.load_dataset("parquet", data_files={"train": files}, split="train")
    return loaded


def _card(teacher: Mapping[str, str], quality: Quality, *, with_previews: bool) -> str:
    """Return the card of the data set; without its head `load_dataset` would take the JSON files for data."""
    lines = [
        "---",
        "configs:",
        "- config_name: default",
        "  data_files:",
        "  - split: train",
        f"    path: {DATA_FOLDER}/*.parquet",
        "task_categories:",
        "- image-classification",
        "---",
        f"# {quality.images:,} images out of {teacher['name_or_path'] or teacher['class']}",
        "",
        "Made by DeepInversion (https://huggingface.co/papers/1912.08795) with hf_abkd from the weights of the teacher "
        "alone; no photograph is among them.",
        "",
        *(["![some of the images](previews.png)", ""] if with_previews else []),
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in quality.as_json().items() if value is not None),
        "",
        "Columns: `image`, `label`, `teacher_confidence` (the teacher's probability of the label), `batch`.",
        "",
    ]
    return "\n".join(lines)


# ---- Adaptive, inside a run ----


class AdaptiveDeepInversion(TrainerCallback):
    """Adaptive DeepInversion inside a data-free run: the training set grows by images on which the student errs.

    The run begins with batches made of the teacher alone. Every `every_steps` optimiser steps one more is made, such
    that the student as it is then and the teacher disagree on it. Give the trainer both, the data set and the callback:

        growing = AdaptiveDeepInversion(teacher, processor, args, every_steps=50)
        DistillationTrainer(student, args, teacher=teacher, stages=knowledge_distillation(label_weight=0),
                            train_dataset=growing.dataset, callbacks=[growing], processing_class=processor)

    An epoch is `every_steps` steps, and a batch comes in before an epoch begins, so that loaders that read ahead and
    their worker processes see it. Where a stage ends within an epoch, the next batch comes with the first epoch that
    begins at least so many steps after the last one. The batches are files: a resumed run reads those that the
    checkpoint knew, and makes later ones anew. Of several processes the first makes them and all others wait (set
    `ddp_timeout` for what a batch takes).

    Paper: Yin et al., CVPR 2020, https://huggingface.co/papers/1912.08795
    Differs: a batch comes in at the beginning of an epoch of fixed length, so that what is read in which step follows
        from the files and the seed.

    Args:
        teacher: A classifier with BatchNorm statistics, the teacher of the run.
        processor: Its image processor.
        args: The training arguments of the run.
        folder: Where the batches are kept; by default `synthesized` in `args.output_dir`.
        every_steps: Optimiser steps between two batches.
        batch_size: Images in a batch.
        initial_batches: How many batches are made before the run.
        settings: How images are made; by default the paper's for CIFAR-10.
        classes: Which classes, by number or name, equally often; by default all.
        transform: Makes of `image` and `label` what the models take; by default `ImageTransform` of the student's
            processor.
        student_processor: The student's image processor; by default the teacher's.
        seed: Seed of noise, jitter, classes and order; by default `args.seed`.
        show_progress: Whether to show a progress bar for each batch.

    Raises:
        ValueError: If the teacher has no BatchNorm statistics, a class or number is not possible, `adaptive_weight` is
            0, or the folder was begun with other settings.
        FileExistsError: If the folder holds something else.
    """

    def __init__(
        self,
        teacher: nn.Module,
        processor: BaseImageProcessor,
        args: TrainingArguments,
        folder: str | Path | None = None,
        *,
        every_steps: int = 50,
        batch_size: int = 256,
        initial_batches: int = 1,
        settings: DeepInversion | None = None,
        classes: Sequence[int | str] | None = None,
        transform: ImageTransform | None = None,
        student_processor: BaseImageProcessor | None = None,
        seed: int | None = None,
        show_progress: bool = True,
    ) -> None:
        settings = settings or DeepInversion()
        for name, value in (
            ("every_steps", every_steps),
            ("batch_size", batch_size),
            ("initial_batches", initial_batches),
        ):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not settings.adaptive_weight:
            raise ValueError("adaptive_weight is 0, so nothing depends on the student: use `synthesize` before the run")
        batch_norms(teacher)
        teacher.to(args.device)
        names = class_names(teacher, processor)
        self.every_steps, self.batch_size, self.initial_batches = every_steps, batch_size, initial_batches
        self.show_progress = show_progress
        #: How many batches this process has made.
        self.made = 0
        self._classes = _classes(classes, names)
        self._teacher, self._processor, self._settings = teacher, processor, settings
        self._student_processor = student_processor
        self._seed = args.seed if seed is None else seed
        made_from = self._maker(None).made_from() | {
            "batch_size": batch_size,
            "initial_batches": initial_batches,
            "every_steps": every_steps,
            "classes": self._classes,
        }
        folder = Path(args.output_dir) / "synthesized" if folder is None else Path(folder)
        with args.main_process_first(local=False, desc="synthesize"):
            self.shards = ImageShards(folder, made_from, names)
            for index in range(initial_batches):
                if not self.shards.has(index):
                    self._make(index, None, step=-1)
        if transform is None:
            transform = ImageTransform(student_processor or processor, num_channels=channels_of(teacher))
        samples = every_steps * args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        #: The training set.
        self.dataset = GrowingImages(self.shards, samples, transform, seed=self._seed)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Forget the batches that the checkpoint, or a new run, does not know."""
        with args.main_process_first(local=False, desc="find synthesized batches"):
            count = self.shards.count()
            later = [i for i in range(self.initial_batches, count) if self._step_of(i) >= state.global_step]
            for index in reversed(later):
                self.shards.remove(index)
        self.dataset.show(self.shards.count())

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        train_dataloader: Any = None,
        span: Span | None = None,
        **_: Any,
    ) -> None:
        """Make a batch for the student as it is, if it is time."""
        steps = -(-len(train_dataloader) // args.gradient_accumulation_steps)
        if (state.global_step - (0 if span is None else span.start)) % steps:
            return  # a resumed run goes on within an epoch, and what it reads is there
        count = self.dataset.visible
        last = self._step_of(count - 1) if count > self.initial_batches else 0
        if state.global_step < last + self.every_steps:
            return
        if model is None:
            raise RuntimeError("the trainer gave its callback no model")
        with args.main_process_first(local=False, desc="synthesize"):
            if not self.shards.has(count):
                self._make(count, model, step=state.global_step)
        self.dataset.show(count + 1)

    def _step_of(self, index: int) -> int:
        """Return after how many steps of the run a batch was made."""
        step: int = self.shards.about(index)["step"]
        return step

    def _maker(self, student: nn.Module | None) -> _Maker:
        return _Maker(self._teacher, self._processor, self._settings, self._seed, student, self._student_processor)

    def _make(self, index: int, student: nn.Module | None, *, step: int) -> None:
        labels = balanced_labels(self._classes, index * self.batch_size, self.batch_size, seed=self._seed)
        steps = self._settings.iterations + self._settings.coarse_iterations
        with tqdm(
            total=steps, disable=not self.show_progress, unit="step", desc=f"synthesize batch {index + 1}", leave=False
        ) as bar:
            self._maker(student).write(self.shards, index, labels, _told(bar), step=step)
        self.made += 1
