"""The command line: `inspect` models, `doctor` a run, `cache` what a teacher says, `synthesize` images out of one."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from accelerate import PartialState
from torch import Tensor, nn
from transformers import BaseImageProcessor, HfArgumentParser

from hf_abkd.cli import doctor, runs
from hf_abkd.data.loading import DataArguments, load_image_datasets
from hf_abkd.data.preprocessing import View
from hf_abkd.layers.pairing import propose
from hf_abkd.layers.plan import Plan
from hf_abkd.layers.tracing import Site, Trace, trace
from hf_abkd.methods.deep_inversion.synthesis import PRESETS, PREVIEW_NAME, DeepInversion, synthesize
from hf_abkd.models.loading import load_processor, load_student, load_teacher, own_processor
from hf_abkd.objectives import ActivationBoundary
from hf_abkd.stages.term import PairedTerms
from hf_abkd.teachers.cache import writing as caching
from hf_abkd.teachers.cache.table import MANIFEST_NAME
from hf_abkd.teachers.cache.teacher_cache import TeacherCache
from hf_abkd.teachers.live import LiveTeacher, is_near_chance
from hf_abkd.training.run_term import RunTerm, plan_of
from hf_abkd.training.wiring import wire
from hf_abkd.version import __version__

# Rows of a stage before those in its middle are left out.
_MOST_ROWS = 8
# How many samples are computed again after a cache was written.
_VERIFIED = 16


def main(words: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status.

    Args:
        words: The words of the command line; by default those of this process.
    """
    parser = argparse.ArgumentParser(prog="hf-abkd")
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument(
        "command",
        choices=_COMMANDS,
        help="inspect: what can be captured in a model, and how two models would be paired; doctor: what would go "
        "wrong in a run, in seconds, with the flags of the run; cache: what a teacher says of a data set, to train "
        "without it; synthesize: images out of a teacher alone, to distil from it without its data",
    )
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="...", help="see the --help of the command")
    given = parser.parse_args(words)
    # They would stand between the lines of the report.
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        return _COMMANDS[given.command](given.words)
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        parser.exit(2, f"hf-abkd {given.command}: {error}\n")


# ---- doctor ----


@dataclass
class DoctorArguments:
    """What the doctor adds to the flags of a run."""

    json: str | None = field(default=None, metadata={"help": "Write the findings to this file, as JSON."})


def examine(words: Sequence[str]) -> int:
    """Examine a run; return 1 if it has an error, else 0."""
    if "LOCAL_RANK" not in os.environ:
        # One device is enough to examine a run; several without a launcher would be refused.
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    parser = runs.parser(DoctorArguments)
    parser.prog = "hf-abkd doctor"
    run, models, data, args, own = runs.parse(parser, words)
    findings = []
    for finding in doctor.examine_flags(run, models, data, args):
        findings.append(finding)
        _write(finding.text())
    count = {level: sum(finding.level == level for finding in findings) for level in ("error", "warning", "note")}
    _write(", ".join(f"{number} {level}{'' if number == 1 else 's'}" for level, number in count.items()))
    if own.json is not None:
        Path(own.json).write_text(json.dumps(doctor.as_json(findings), indent=2) + "\n", encoding="utf-8")
    return 1 if count["error"] else 0


# ---- cache ----


@dataclass
class CacheArguments:
    """What is stored of which teacher; see `hf_abkd.teachers.cache.writing.Recipe`."""

    teacher: str = field(metadata={"help": "A model on the Hub, a local folder, or package.module:factory."})
    output_dir: str = field(metadata={"help": "Folder of the cache."})
    layers: list[str] | None = field(
        default=None,
        metadata={
            "help": "Modules whose boundaries are stored, one bit for each unit. Default: the last activation of each "
            "stage. --layers without a name stores none."
        },
    )
    features: list[str] = field(default_factory=list, metadata={"help": "Modules whose values are stored, in float16."})
    logits: int | None = field(
        default=None, metadata={"help": "How many of the largest logits are stored. Default: all; 0 for none."}
    )
    views: int = field(default=1, metadata={"help": "How many augmented views of each image."})
    crop_padding: int = field(default=0, metadata={"help": "Random crops after padding by so many pixels."})
    flip: bool = field(default=False, metadata={"help": "Flip half of the images left to right."})
    seed: int = field(default=42, metadata={"help": "Seed of the views."})
    precision: str = field(default="fp32", metadata={"help": "Precision of the teacher: fp32, bf16 or fp16."})
    batch_size: int = field(default=64, metadata={"help": "How many images the teacher sees at once."})
    num_workers: int = field(default=0, metadata={"help": "Processes that decode images."})
    verify: int | None = field(
        default=None,
        metadata={
            "help": "Compute so many samples again with the live teacher and compare; of a cache that is complete "
            "already nothing else is done."
        },
    )
    image_processor_name: str | None = field(
        default=None, metadata={"help": "The teacher's image processor, if it is not stored with it."}
    )
    teacher_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the teacher."})
    token: str | None = field(default=None, metadata={"help": "Hub token."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where downloads are kept."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run model code from the Hub or the folder of the teacher."}
    )
    push_to_hub: str | None = field(default=None, metadata={"help": "Upload the cache to this data set repository."})


def store(words: Sequence[str]) -> int:
    """Store what a teacher says of a data set, check some of it, and say how good it is."""
    parser = HfArgumentParser((CacheArguments, DataArguments))
    parser.prog = "hf-abkd cache"
    # HfArgumentParser takes one name or more.
    next(action for action in parser._actions if action.dest == "layers").nargs = "*"
    own: CacheArguments
    data: DataArguments
    own, data = parser.parse_args_into_dataclasses(list(words))
    complete = (Path(own.output_dir) / MANIFEST_NAME).is_file()
    if complete and own.verify is None:
        raise FileExistsError(
            f"{own.output_dir} holds a cache that is complete: train from it, compare some of it with the teacher "
            f"(--verify {_VERIFIED}), or choose another --output_dir"
        )
    state = PartialState(cpu=not torch.cuda.is_available())
    augmentation = runs.augmentation_of(own.crop_padding, flip=own.flip)
    recipe = caching.Recipe(
        layers=own.layers,
        features=own.features,
        logits=own.logits,
        views=own.views,
        augmentation=augmentation,
        seed=own.seed,
        precision=own.precision,
        batch_size=own.batch_size,
        workers=own.num_workers,
    )
    hub: dict[str, Any] = {
        "trust_remote_code": own.trust_remote_code,
        "cache_dir": own.cache_dir,
        "token": own.token,
    }
    # All rows: which of them a run trains on is its own choice.
    images = load_image_datasets(replace(data, train_val_split=0.0), cache_dir=own.cache_dir, token=own.token)
    teacher = load_teacher(own.teacher, labels=images.labels, revision=own.teacher_revision, **hub)
    revision = own.teacher_revision if own.image_processor_name is None else "main"
    processor = load_processor(own.image_processor_name or own.teacher, revision=revision, **hub)
    channels = getattr(getattr(teacher, "config", None), "num_channels", 3)
    if complete:
        cache = TeacherCache.load(Path(own.output_dir))
    else:
        cache = caching.write_cache(
            own.output_dir,
            teacher,
            processor,
            images.train,
            recipe,
            image_column=data.image_column_name,
            num_channels=channels,
            name=images.name,
        )
    if not state.is_main_process:
        return 0
    for line in _described(cache):
        _write(line)
    score = caching.accuracy(
        cache,
        images.train,
        images.labels,
        image_column=data.image_column_name,
        label_column=data.label_column_name,
    )
    if score is not None:
        _write(f"the teacher is right on {score[0]:.1%} of these images; the commonest class is {score[1]:.1%} of them")
        if is_near_chance(*score):
            _write("  which is close to guessing: is it trained, and are processor and label order those of this data?")
    samples = _VERIFIED if own.verify is None else own.verify
    if samples:
        teacher.to(state.device)
        found = caching.verify(
            cache, teacher, images.train, samples, augmentation=augmentation, image_column=data.image_column_name
        )
        _write(f"verified on {samples} samples, every view, against the live teacher:")
        for one in found:
            what = "bits on the other side" if one.kind == "bits" else "largest difference"
            how = f"{one.moved} of {one.values:,}" if one.kind == "bits" else f"{one.largest:.2g} of the spread"
            _write(f"  {one.column}: {what} {how}")
    if own.push_to_hub:
        _write(f"uploaded to {cache.table.push_to_hub(own.push_to_hub, token=own.token)}")
    _write(f"Train from it with --teacher_name_or_path {shlex.quote(own.output_dir)}{_augmentation_flags(own)}")
    return 0


def _described(cache: TeacherCache) -> Iterator[str]:
    table = cache.table
    views = "1 view" if table.views == 1 else f"{table.views} views"
    yield f"{table.folder}: {table.samples:,} images, {views} each, {table.nbytes / 1e6:,.1f} MB"
    for column in table.columns.values():
        shape = "x".join(map(str, column.shape))
        yield f"  {column.name}: {column.kind} {shape}, {column.row_bytes:,} bytes for each view"


def _augmentation_flags(own: CacheArguments) -> str:
    crop = f" --crop_padding {own.crop_padding}" if own.crop_padding else ""
    return f"{crop}{' --flip' if own.flip else ''}"


# ---- synthesize ----


@dataclass
class SynthesizeArguments:
    """Which images are made of which teacher; see `hf_abkd.DeepInversion` for what the weights weigh."""

    teacher: str = field(metadata={"help": "A model on the Hub, a local folder, or package.module:factory."})
    output_dir: str = field(metadata={"help": "Folder of the data set. The same call goes on with it."})
    num_images: int = field(metadata={"help": "How many images."})
    batch_size: int = field(default=256, metadata={"help": "How many images are optimised together."})
    preset: str = field(default="cifar10", metadata={"help": "Settings of the paper: cifar10 or imagenet."})
    iterations: int | None = field(
        default=None, metadata={"help": "Steps at the teacher's size. Default: the preset's."}
    )
    coarse_iterations: int | None = field(default=None, metadata={"help": "Steps before them at half the size."})
    learning_rate: float | None = field(default=None, metadata={"help": "Of Adam."})
    warmup_iterations: int | None = field(default=None, metadata={"help": "Steps in which the learning rate rises."})
    cosine: bool | None = field(default=None, metadata={"help": "Let the learning rate fall to 0."})
    feature_weight: float | None = field(default=None, metadata={"help": "Weight of the BatchNorm statistics."})
    first_feature_factor: float | None = field(default=None, metadata={"help": "Factor of the first layer's."})
    tv_weight: float | None = field(default=None, metadata={"help": "Weight of the total variation."})
    l2_weight: float | None = field(default=None, metadata={"help": "Weight of the norm."})
    adaptive_weight: float | None = field(default=None, metadata={"help": "Weight of disagreement with --student."})
    jitter: int | None = field(default=None, metadata={"help": "Largest shift of a step, in pixels."})
    flip: bool | None = field(default=None, metadata={"help": "Mirror the batch in half of the steps."})
    classes: list[str] | None = field(default=None, metadata={"help": "Classes, by name or number. Default: all."})
    seed: int = field(default=0, metadata={"help": "Seed of noise, jitter and order of the classes."})
    student: str | None = field(
        default=None, metadata={"help": "A trained student: images on which it and the teacher disagree."}
    )
    verifier: str | None = field(
        default=None, metadata={"help": "Another trained model, whose accuracy on the images is reported."}
    )
    previews: int = field(default=64, metadata={"help": "How many images previews.png shows; 0 for none."})
    image_processor_name: str | None = field(
        default=None, metadata={"help": "The teacher's image processor, if it is not stored with it."}
    )
    teacher_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the teacher."})
    token: str | None = field(default=None, metadata={"help": "Hub token."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where downloads are kept."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run model code from the Hub or the folder of a model."}
    )


def make_images(words: Sequence[str]) -> int:
    """Make a data set out of a teacher, and say what it is worth."""
    parser = HfArgumentParser(SynthesizeArguments)
    parser.prog = "hf-abkd synthesize"
    own: SynthesizeArguments
    (own,) = parser.parse_args_into_dataclasses(list(words))
    if own.preset not in PRESETS:
        raise ValueError(f"--preset is one of {', '.join(PRESETS)}; got {own.preset}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RuntimeError(
            "synthesize runs in one process. For several, call it once in each, with other --seed and --output_dir, "
            "and train from the files of all folders"
        )
    names = [one.name for one in fields(DeepInversion)]
    changes = {name: value for name in names if (value := getattr(own, name, None)) is not None}
    settings = PRESETS[own.preset](**changes)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    hub: dict[str, Any] = {
        "trust_remote_code": own.trust_remote_code,
        "cache_dir": own.cache_dir,
        "token": own.token,
    }

    def load(name: str, processor: str | None, revision: str) -> tuple[nn.Module, BaseImageProcessor]:
        at = revision if processor is None else "main"
        loaded = load_teacher(name, labels=None, revision=revision, **hub).to(device)
        return loaded, load_processor(processor or name, revision=at, **hub)

    teacher, processor = load(own.teacher, own.image_processor_name, own.teacher_revision)
    others: dict[str, Any] = {}
    for role in ("student", "verifier"):
        if name := getattr(own, role):
            others[role], others[f"{role}_processor"] = load(name, None, "main")
    made = synthesize(
        teacher,
        processor,
        own.output_dir,
        num_images=own.num_images,
        batch_size=own.batch_size,
        settings=settings,
        classes=own.classes,
        seed=own.seed,
        previews=own.previews,
        **others,
    )
    quality = made.quality
    _write(f"{made.folder}: {quality.images:,} images of {quality.classes} classes, as stored (8-bit PNG)")
    _write(f"  the teacher says their label of {quality.teacher_accuracy:.1%}, {quality.teacher_confidence:.2f} sure")
    if quality.verifier_accuracy is not None:
        _write(f"  the verifier says it of {quality.verifier_accuracy:.1%}")
    _write(f"  R_feature {quality.r_feature:.4g} in batches of {min(own.batch_size, own.num_images)}")
    if quality.diversity is not None:
        _write(f"  diversity {quality.diversity:.3g} (deviation within a class, in the units of the last BatchNorm)")
    if own.previews:
        _write(f"Look at them: {made.folder / PREVIEW_NAME}")
    _write(f"Train from them with --dataset_name {shlex.quote(str(made.folder))}")
    return 0


# ---- inspect ----


@dataclass(frozen=True)
class _Seen:
    """A model, the images it was run on, and what that showed."""

    model: Any
    images: Tensor
    trace: Trace


def inspect(words: Sequence[str]) -> int:
    """Print what can be captured in a model, and with a teacher the pairs of layers that training would take."""
    parser = argparse.ArgumentParser(
        prog="hf-abkd inspect", description="What can be captured in a model, and how two models would be paired."
    )
    parser.add_argument(
        "model", help="a model on the Hub, a local folder, a config in a .json file, or package.module:factory"
    )
    parser.add_argument("--teacher", help="pair the layers of the model with those of this one")
    parser.add_argument("--plan", metavar="FILE", help="write the pairs to this YAML file, to edit and train with")
    parser.add_argument("--all", action="store_true", help="show every activation, not only some of each stage")
    parser.add_argument(
        "--image_size", type=int, nargs="+", metavar="N", help="side, or height and width, of the images"
    )
    parser.add_argument("--revision", default="main", help="branch, tag or commit of the model")
    parser.add_argument("--teacher_revision", default="main", help="branch, tag or commit of the teacher")
    parser.add_argument("--token", help="Hub token")
    parser.add_argument("--cache_dir", help="where downloads are kept")
    parser.add_argument("--trust_remote_code", action="store_true", help="run model code from the Hub or the folder")
    given = parser.parse_args(words)
    if given.plan and not given.teacher:
        parser.error("--plan needs --teacher")
    if given.image_size and (len(given.image_size) > 2 or min(given.image_size) < 1):
        parser.error(f"--image_size takes one or two positive numbers, got {given.image_size}")
    hub = {"trust_remote_code": given.trust_remote_code, "cache_dir": given.cache_dir, "token": given.token}
    size = None if given.image_size is None else (given.image_size[0], given.image_size[-1])
    if given.teacher is None:
        model = _load(given.model, revision=given.revision, **hub)
        processor = own_processor(given.model, revision=given.revision, **hub)
        _show("model", given.model, model, _images(model, processor, size), every=given.all)
        return 0
    student = load_student(given.model, labels=None, revision=given.revision, **hub).eval()
    teacher = load_teacher(given.teacher, labels=None, revision=given.teacher_revision, **hub)
    theirs = own_processor(given.teacher, revision=given.teacher_revision, **hub)
    ours = own_processor(given.model, revision=given.revision, **hub) or theirs
    seen = [
        _show("student", given.model, student, _images(student, ours, size), every=given.all),
        _show("teacher", given.teacher, teacher, _images(teacher, theirs or ours, size), every=given.all),
    ]
    plan, labels = _paired(*seen)
    parameters = sum(pair.parameters or 0 for pair in plan.pairs)
    _write(f"{len(plan.pairs)} pairs of layers, {parameters:,} parameters to connect them\n")
    _write(_indented(plan.table()))
    _write(f"\nlabels: {labels}")
    if given.plan:
        plan.save(given.plan)
        _write(f"The plan is in {given.plan}: edit it, and train with --plan {given.plan}")
    return 0


def _load(name: str, **hub: Any) -> nn.Module:
    """Return a model as a student may be given: a config suffices; a factory may make any module."""
    try:
        model: nn.Module = load_student(name, labels=None, **hub).eval()
    except TypeError:
        model = load_teacher(name, labels=None, **hub)
    return model


def _images(model: nn.Module, processor: BaseImageProcessor | None, size: tuple[int, int] | None) -> tuple[Tensor, str]:
    """Return three random images as a model takes them, (3, C, H, W), and where their size comes from."""
    config = getattr(model, "config", None)
    channels = getattr(config, "num_channels", 3)
    origin = "--image_size"
    if size is None and processor is not None:
        # A processor without a fixed size is no reason to refuse: there are other ways to know one.
        with contextlib.suppress(ValueError):
            size, origin = View.measured(processor, channels).size, "image processor"
    if size is None:
        own = getattr(config, "image_size", None)
        origin = "the usual size: --image_size sets another" if own is None else "config.image_size"
        size = (224, 224) if own is None else tuple(own) if isinstance(own, (list, tuple)) else (own, own)
    return torch.randn(3, channels, *size, generator=torch.Generator().manual_seed(0)), origin


def _paired(student: _Seen, teacher: _Seen) -> tuple[Plan, str]:
    """Return the pairs that training would take, with their connectors, and how the labels lie to each other."""
    plan = Plan.of_sites(propose(student.trace, teacher.trace))
    terms = [RunTerm(term) for term in PairedTerms(ActivationBoundary()).terms(plan)]
    name = student.model.main_input_name
    inputs, teacher_inputs = {name: student.images}, {name: teacher.images}
    traces = student.trace, teacher.trace
    wiring = wire(student.model, LiveTeacher(teacher.model), terms, inputs, teacher_inputs, name, traces)
    connected = plan_of(terms)
    if connected is None or wiring.labels is None:
        raise RuntimeError("no pair of layers was connected")
    return connected, wiring.labels.describe()


def _show(role: str, name: str, model: Any, sized: tuple[Tensor, str], *, every: bool) -> _Seen:
    """Print what one forward pass shows of a model, and return it."""
    (images, origin), runner = sized, LiveTeacher(model)
    found = trace(model, lambda pixels: runner.logits({"pixel_values": pixels}), images)
    size = sum(parameter.numel() for parameter in model.parameters())
    _write(f"{role} {name}: {type(model).__name__}, {size:,} parameters")
    _write(f"images of {images.shape[1]} channels, {images.shape[2]}x{images.shape[3]} pixels ({origin})\n")
    usable = [site for site in found.sites if not site.left_out]
    if usable:
        _write(_indented("\n".join(_table(usable, every=every))))
    for line in _remarks(found, every=every):
        _write(f"  {line}")
    _write("")
    return _Seen(model, images, found)


def _table(sites: Sequence[Site], *, every: bool) -> Iterator[str]:
    """Return the activations that can be paired, stage by stage: those on equal grids."""
    stages: dict[Any, list[Site]] = {}
    for site in sites:
        stages.setdefault(site.layout and site.layout.grid, []).append(site)
    width = max(len(site.module) for site in sites)
    kind = max(len(site.activation) for site in sites)
    head = ("module", "activation", "layout", "grid", "channels", "depth")
    layouts = max(len(_layout(site)) for site in sites)
    widths = (max(width, 6), max(kind, 10), max(layouts, 6), 7, 8, 5)
    yield _row(head, widths)
    for grid, stage in stages.items():
        shown = stage if every or len(stage) <= _MOST_ROWS else [*stage[:2], *stage[-4:]]
        hidden = len(stage) - len(shown)
        for number, site in enumerate(shown):
            if hidden and number == 2:
                yield f"... {hidden} more on this grid (--all)"
            channels = site.shape[site.layout.channel_dim] if site.layout else ""
            by = "x".join(map(str, grid or ()))
            yield _row((site.module, site.activation, _layout(site), by, f"{channels}", f"{site.depth:.0%}"), widths)


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Return cells in columns: names to the left, numbers to the right."""
    columns = [
        cell.ljust(width) if number < 3 else cell.rjust(width)
        for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(columns).rstrip()


def _remarks(found: Trace, *, every: bool) -> Iterator[str]:
    """Return what cannot be paired, and why."""
    reasons: dict[str, list[str]] = {}
    for site in found.sites:
        if site.left_out:
            reasons.setdefault(site.left_out, []).append(site.module)
    for reason, modules in reasons.items():
        yield f"not paired, {reason}: {_some(modules, every=every)}"
    calls: dict[str, list[str]] = {}
    for module, function, source in found.functional:
        calls.setdefault(function, []).append(
            (module or "the model itself") + (f" (name {source}:output)" if source else "")
        )
    for function, modules in calls.items():
        yield f"not seen by hooks, calls of {function} in: {_some(modules, every=every)}"
    for name, stride, size in found.cropped:
        lost = f"{size[0] % stride[0]} rows and {size[1] % stride[1]} columns"
        yield f"{name} leaves out the last {lost} of {size[0]}x{size[1]}: its patches are {stride[0]}x{stride[1]}"
    if not found.sites and not found.functional:
        yield "no activation was seen; name layers with ':input' or ':output'"


def _layout(site: Site) -> str:
    return site.layout.describe() if site.layout else ""


def _some(names: Sequence[str], *, every: bool) -> str:
    shown = names if every else names[:3]
    more = f" and {len(names) - len(shown)} more (--all)" if len(names) > len(shown) else ""
    return ", ".join(shown) + more


def _indented(text: str) -> str:
    return textwrap.indent(text, "  ")


def _write(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


_COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {
    "cache": store,
    "doctor": examine,
    "inspect": inspect,
    "synthesize": make_images,
}
