"""`hf-abkd cache`: what a teacher says of a data set, stored, checked and judged."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from accelerate import PartialState
from torch import nn
from transformers import BaseImageProcessor

from hf_abkd.cli import runs
from hf_abkd.cli.flags import FlagParser
from hf_abkd.cli.output import write_line
from hf_abkd.cli.workload import tell_unlabelled
from hf_abkd.data.arguments import DataArguments
from hf_abkd.data.loading import ImageDatasets, load_image_datasets
from hf_abkd.data.table.manifest import MANIFEST_NAME
from hf_abkd.data.table.missing_shards import size_text
from hf_abkd.models.expected_images import channels_of
from hf_abkd.models.hub_options import HubOptions
from hf_abkd.models.placement import put_on
from hf_abkd.models.processors import load_processor
from hf_abkd.models.teacher import load_teacher
from hf_abkd.models.teacher_weights import TeacherWeights
from hf_abkd.teachers.cache.accuracy import accuracy
from hf_abkd.teachers.cache.settings import CacheSettings
from hf_abkd.teachers.cache.teacher_cache import TeacherCache
from hf_abkd.teachers.cache.verification import Deviation, verify
from hf_abkd.teachers.cache.writing import write_cache
from hf_abkd.teachers.chance import is_near_chance
from hf_abkd.wording import by, counted

# How many samples are computed again after a cache was written.
_VERIFIED = 16


@dataclass
class CacheArguments:
    """What is stored of which teacher; see `hf_abkd.CacheSettings`."""

    teacher: str = field(metadata={"help": "A model on the Hub, a local folder, or package.module:factory."})
    output_dir: str = field(metadata={"help": "Folder of the cache."})
    layers: list[str] | None = field(
        default=None,
        metadata={
            "help": "Layers whose boundaries are stored, one bit for each unit, by the names that `hf-abkd inspect` "
            "shows. Default: the last activation of each stage. --layers without a name stores none."
        },
    )
    features: list[str] = field(default_factory=list, metadata={"help": "Layers whose values are stored, in float16."})
    logits: int | None = field(
        default=None, metadata={"help": "How many of the largest logits are stored. Default: all; 0 for none."}
    )
    views: int = field(default=1, metadata={"help": "How many augmented views of each image."})
    crop_padding: float = field(
        default=0,
        metadata={"help": "Random crops after padding by so many pixels, or by a share below 1 of the side."},
    )
    flip: bool = field(default=False, metadata={"help": "Flip half of the images left to right."})
    seed: int = field(default=42, metadata={"help": "Seed of the views, and of --max_train_samples."})
    precision: str = field(default="fp32", metadata={"help": "Precision of the teacher: fp32, bf16 or fp16."})
    batch_size: int = field(default=64, metadata={"help": "How many images the teacher sees at once."})
    num_workers: int = field(default=0, metadata={"help": "Processes that decode images."})
    images: bool = field(
        default=False,
        metadata={
            "help": "Keep the images too, as the teacher's image processor resizes and crops them: height x width x "
            "channels bytes for each. Runs on the cache then decode none."
        },
    )
    verify: int | None = field(
        default=None,
        metadata={
            "help": "Compute so many samples again with the live teacher and compare; of a cache that is complete "
            "already nothing else is done."
        },
    )
    teacher_image_processor_name: str | None = field(
        default=None,
        metadata={
            "help": "The teacher's image processor, if it is not stored with it.",
            # What it was called before.
            "aliases": ["--image_processor_name"],
        },
    )
    teacher_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the teacher."})
    teacher_dtype: str = field(
        default="float32", metadata={"help": "Precision of the teacher's weights: float32, bfloat16 or float16."}
    )
    teacher_device_map: str | None = field(
        default=None,
        metadata={"help": 'Where the layers of a large teacher lie: auto, a device, or as JSON, {"": "disk"}.'},
    )
    teacher_bits: int | None = field(
        default=None, metadata={"help": "8 or 4: hold the weights of its linear layers in so many bits."}
    )
    token: str | None = field(default=None, repr=False, metadata={"help": "Hub token."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where downloads are kept."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run model code from the Hub or the folder of the teacher."}
    )
    push_to_hub: str | None = field(default=None, metadata={"help": "Upload the cache to this data set repository."})


def run(words: Sequence[str]) -> int:
    """Store what a teacher says of a data set, check some of it, and say how good it is."""
    stored, data = _parse(words)
    complete = (Path(stored.output_dir) / MANIFEST_NAME).is_file()
    settings = _settings(stored)
    state = PartialState(cpu=not torch.cuda.is_available())
    # All rows, as which of them a run trains on is its own choice; a part of them is that of a run with this seed.
    wanted = replace(data, train_val_split=0.0) if data.max_train_samples is None else data
    images = load_image_datasets(wanted, seed=stored.seed, cache_dir=stored.cache_dir, token=stored.token)
    tell_unlabelled(images)
    teacher, processor = _load(stored, images.labels)
    if complete and stored.verify is not None:
        cache = TeacherCache.load(Path(stored.output_dir))
        cache.check_decoding(data.reduced_decoding)
    else:
        cache = write_cache(
            stored.output_dir,
            teacher,
            processor,
            images.train,
            settings,
            image_column=data.image_column_name,
            num_channels=channels_of(getattr(teacher, "config", None)) or 3,
            name=images.name,
            keep_images=stored.images,
            reduced_decoding=data.reduced_decoding,
        )
    if state.is_main_process:
        for line in _report(cache, put_on(teacher, state.device), images, settings, stored, data):
            write_line(line)
    return 0


def _parse(words: Sequence[str]) -> tuple[CacheArguments, DataArguments]:
    sections = {"what is stored": CacheArguments, "images": DataArguments}
    parser = FlagParser(sections, prog="hf-abkd cache", description=__doc__)
    # HfArgumentParser takes one name or more.
    parser.action_of("layers").nargs = "*"
    stored: CacheArguments
    data: DataArguments
    stored, data = parser.fill(words)
    if data.pixel_cache:
        raise ValueError("the images are kept in the cache of the teacher: give --images in the place of --pixel_cache")
    return stored, data


def _load(stored: CacheArguments, labels: list[str]) -> tuple[nn.Module, BaseImageProcessor]:
    """Return the teacher and its image processor."""
    hub = HubOptions(stored.teacher_revision, stored.token, stored.cache_dir, stored.trust_remote_code)
    weights = TeacherWeights.of_flags(stored.teacher_dtype, stored.teacher_device_map, stored.teacher_bits)
    teacher = load_teacher(stored.teacher, labels=labels, **asdict(weights), **hub.for_models())
    flag = "--teacher_image_processor_name"
    if stored.teacher_image_processor_name is None:
        return teacher, load_processor(stored.teacher, flag=flag, **hub.for_models())
    return teacher, load_processor(stored.teacher_image_processor_name, flag=flag, **hub.at("main").for_models())


def _settings(stored: CacheArguments) -> CacheSettings:
    """Return what the flags say of how the cache is written.

    Raises:
        ValueError: If a value is not possible.
    """
    return CacheSettings(
        layers=stored.layers,
        features=stored.features,
        logits=stored.logits,
        views=stored.views,
        augmentation=runs.augmentation_of(stored.crop_padding, flip=stored.flip),
        seed=stored.seed,
        precision=stored.precision,
        batch_size=stored.batch_size,
        workers=stored.num_workers,
    )


def _report(
    cache: TeacherCache,
    teacher: nn.Module,
    images: ImageDatasets,
    settings: CacheSettings,
    stored: CacheArguments,
    data: DataArguments,
) -> Iterator[str]:
    """Check some of the cache with the live teacher, and return what it holds and how good it is, line by line."""
    yield from _contents(cache)
    yield from _judgement(cache, images, data)
    samples = _VERIFIED if stored.verify is None else stored.verify
    if samples:
        deviations = verify(
            cache,
            teacher,
            images.train,
            samples,
            augmentation=settings.augmentation,
            image_column=data.image_column_name,
        )
        yield f"verified on {samples} samples, every view, against the live teacher:"
        yield from map(_deviation, deviations)
    if stored.push_to_hub:
        yield f"uploaded to {cache.table.push_to_hub(stored.push_to_hub, token=stored.token)}"
    flags = _augmentation_flags(stored) + (" --reduced_decoding" if cache.reduced_decoding else "")
    yield f"Train from it with --teacher_name_or_path {shlex.quote(stored.output_dir)}{flags}"


def _contents(cache: TeacherCache) -> Iterator[str]:
    """Return what the cache holds, line by line."""
    table = cache.table
    views = counted(table.views, "view")
    yield f"{table.folder}: {table.samples:,} images, {views} each, {size_text(table.nbytes)}"
    if cache.pixel_cache is not None:
        kept = cache.pixel_cache.table
        yield f"  the pixels of {kept.samples:,} different images: {size_text(kept.nbytes)}"
    for column in table.columns.values():
        yield f"  {column.name}: {column.kind} {by(column.shape)}, {column.row_bytes:,} bytes for each view"


def _judgement(cache: TeacherCache, images: ImageDatasets, data: DataArguments) -> Iterator[str]:
    """Return how often the teacher is right on the images, if that is defined."""
    score = accuracy(
        cache,
        images.labelled,
        images.labels,
        image_column=data.image_column_name,
        label_column=data.label_column_name,
    )
    if score is None:
        return
    these = "of the images with labels" if images.unlabelled else "of these images"
    yield f"the teacher is right on {score[0]:.1%} {these}; the commonest class is {score[1]:.1%} of them"
    if is_near_chance(*score):
        yield "  which is close to guessing: is it trained, and are processor and label order those of this data?"


def _deviation(column: Deviation) -> str:
    """Return how far a column of the cache is from what the live teacher says."""
    if column.kind == "bits":
        return f"  {column.column}: bits on the other side {column.moved} of {column.values:,}"
    return f"  {column.column}: largest difference {column.largest:.2g} of the spread"


def _augmentation_flags(stored: CacheArguments) -> str:
    crop = f" --crop_padding {stored.crop_padding:g}" if stored.crop_padding else ""
    return f"{crop}{' --flip' if stored.flip else ''}"
