"""`hf-abkd synthesize`: a data set of images out of a teacher alone, and what it is worth."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import nn
from transformers import BaseImageProcessor

from hf_abkd.cli.flags import FlagParser
from hf_abkd.cli.output import write_line
from hf_abkd.methods.deep_inversion.image_set import PREVIEW_NAME, Synthesized
from hf_abkd.methods.deep_inversion.settings import PRESETS, DeepInversion
from hf_abkd.methods.deep_inversion.synthesis import synthesize
from hf_abkd.models.hub_options import HubOptions
from hf_abkd.models.processors import load_processor
from hf_abkd.models.teacher import load_teacher


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
    bf16: bool | None = field(
        default=None, metadata={"help": "Let the models compute in bfloat16, on hardware made for it."}
    )
    classes: list[str] | None = field(default=None, metadata={"help": "Classes, by name or number. Default: all."})
    seed: int = field(default=0, metadata={"help": "Seed of noise, jitter and order of the classes."})
    student: str | None = field(
        default=None, metadata={"help": "A trained student: images on which it and the teacher disagree."}
    )
    verifier: str | None = field(
        default=None, metadata={"help": "Another trained model, whose accuracy on the images is reported."}
    )
    previews: int = field(default=64, metadata={"help": "How many images previews.png shows; 0 for none."})
    teacher_image_processor_name: str | None = field(
        default=None,
        metadata={
            "help": "The teacher's image processor, if it is not stored with it.",
            # What it was called before.
            "aliases": ["--image_processor_name"],
        },
    )
    teacher_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the teacher."})
    token: str | None = field(default=None, repr=False, metadata={"help": "Hub token."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where downloads are kept."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run model code from the Hub or the folder of a model."}
    )


def run(words: Sequence[str]) -> int:
    """Make a data set out of a teacher, and say what it is worth."""
    wanted = _parse(words)
    settings = _settings(wanted)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RuntimeError(
            "synthesize runs in one process. For several, call it once in each, with other --seed and --output_dir, "
            "and train from the files of all folders"
        )
    teacher, processor = _load(wanted, wanted.teacher, wanted.teacher_image_processor_name, wanted.teacher_revision)
    others: dict[str, Any] = {}
    for role in ("student", "verifier"):
        if name := getattr(wanted, role):
            others[role], others[f"{role}_processor"] = _load(wanted, name)
    made = synthesize(
        teacher,
        processor,
        wanted.output_dir,
        num_images=wanted.num_images,
        batch_size=wanted.batch_size,
        settings=settings,
        classes=wanted.classes,
        seed=wanted.seed,
        previews=wanted.previews,
        **others,
    )
    for line in _report(made, wanted):
        write_line(line)
    return 0


def _parse(words: Sequence[str]) -> SynthesizeArguments:
    sections = {"images out of a teacher": SynthesizeArguments}
    wanted: SynthesizeArguments
    (wanted,) = FlagParser(sections, prog="hf-abkd synthesize", description=__doc__).fill(words)
    return wanted


def _settings(wanted: SynthesizeArguments) -> DeepInversion:
    """Return the preset with what the flags change in it."""
    if wanted.preset not in PRESETS:
        raise ValueError(f"--preset is one of {', '.join(PRESETS)}; got {wanted.preset}")
    names = [setting.name for setting in fields(DeepInversion)]
    changes = {name: value for name in names if (value := getattr(wanted, name, None)) is not None}
    return PRESETS[wanted.preset](**changes)


def _load(
    wanted: SynthesizeArguments, name: str, processor: str | None = None, revision: str = "main"
) -> tuple[nn.Module, BaseImageProcessor]:
    """Return a trained model on the device that makes the images, and its image processor."""
    hub = HubOptions(revision, wanted.token, wanted.cache_dir, wanted.trust_remote_code)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_teacher(name, labels=None, **hub.for_models()).to(device)
    flag = "--teacher_image_processor_name" if name == wanted.teacher else None
    if processor is None:
        return model, load_processor(name, flag=flag, **hub.for_models())
    # A processor of another name has revisions of its own.
    return model, load_processor(processor, flag=flag, **hub.at("main").for_models())


def _report(made: Synthesized, wanted: SynthesizeArguments) -> Iterator[str]:
    """Return what was made and what it is worth, line by line."""
    quality = made.quality
    yield f"{made.folder}: {quality.images:,} images of {quality.classes} classes, as stored (8-bit PNG)"
    yield f"  the teacher says their label of {quality.teacher_accuracy:.1%}, {quality.teacher_confidence:.2f} sure"
    if quality.verifier_accuracy is not None:
        yield f"  the verifier says it of {quality.verifier_accuracy:.1%}"
    yield f"  R_feature {quality.r_feature:.4g} in batches of {min(wanted.batch_size, wanted.num_images)}"
    if quality.diversity is not None:
        yield f"  diversity {quality.diversity:.3g} (deviation within a class, in the units of the last BatchNorm)"
    if wanted.previews:
        yield f"Look at them: {made.folder / PREVIEW_NAME}"
    yield f"Train from them with --dataset_name {shlex.quote(str(made.folder))}"
