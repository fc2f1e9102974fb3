"""Flags of a run: what a command line says of how to distil, and which methods there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import transformers

from hf_abkd.cli.flags import FlagParser
from hf_abkd.data.arguments import DataArguments
from hf_abkd.methods import BOUNDARY_WEIGHT, INITIALIZATION_SHARE
from hf_abkd.models.arguments import ModelArguments
from hf_abkd.objectives.activation_boundary import UNITS_PER_CHANNEL
from hf_abkd.stages.arguments import DistillationArguments
from hf_abkd.training.life.run_folder import AUTO

#: The methods, and what they are called in tables.
METHODS: Mapping[str, str] = {"alone": "student alone", "kd": "KD", "ab": "AB, then KD"}


@dataclass
class RunArguments:
    """How to distil, as flags for ``transformers.HfArgumentParser``."""

    student_layers: list[str] | None = field(
        default=None,
        metadata={
            "help": "Layers of the student, by the names that `hf-abkd inspect` shows, in the order of "
            "--teacher_layers. Default: paired automatically."
        },
    )
    teacher_layers: list[str] | None = field(default=None, metadata={"help": "Layers of the teacher, by such names."})
    plan: str | None = field(
        default=None, metadata={"help": "YAML file with the pairs of layers, as `hf-abkd inspect --plan` writes it."}
    )
    initialization_share: float = field(
        default=INITIALIZATION_SHARE,
        metadata={"help": "Share of the run that has AB beside KD; KD alone has the rest."},
    )
    boundary_weight: float = field(
        default=BOUNDARY_WEIGHT, metadata={"help": "Weight of the boundary objective per layer."}
    )
    units_per_channel: float = field(
        default=UNITS_PER_CHANNEL,
        metadata={
            "help": "How many units of a layer of the teacher are compared by their boundaries, at most, for each "
            "channel of the student's; 0 for all of them."
        },
    )
    boundaries_fall: bool = field(
        default=False,
        metadata={"help": "Keep the boundaries beside KD after the first stage, with a weight that falls to 0."},
    )
    temperature: float | None = field(
        default=None, metadata={"help": "Temperature of KD. Default: 4; beside and after AB 3, without its square."}
    )
    kd_weight: float | None = field(
        default=None,
        metadata={
            "help": "Weight of KD, from 0 to 1; the labels get the rest, so with 1 they do not count. Default: "
            "0.9; beside and after AB 1."
        },
    )
    seeds: list[int] | None = field(
        default=None,
        metadata={"help": "One run with each of these seeds, in folders of their own. Default: one run with --seed."},
    )
    crop_padding: float | None = field(
        default=None,
        metadata={
            "help": "Random crops after padding by so many pixels, or by a share below 1 of the side; 0 for none. "
            "Default: an eighth of the side for a student from random weights, without a cached teacher."
        },
    )
    flip: bool = field(default=False, metadata={"help": "Flip half of the images left to right."})
    cutmix: bool = field(
        default=False,
        metadata={
            "help": "Lay a box of another image over each one (CutMix): new images out of few, for runs by what a live "
            "teacher says alone, without labels."
        },
    )


@dataclass
class MethodArguments:
    """Which methods a student is trained by, as flags."""

    method: str | None = field(default=None, metadata={"help": "What the student is trained by."})
    compare: bool = field(
        default=False, metadata={"help": "Train by every --method with each of --seeds, and print a table."}
    )


def _other_default(name: str, default: Any) -> Any:
    """Return a field of the training arguments with another default, and its help."""
    return field(default=default, metadata=dict(DistillationArguments.__dataclass_fields__[name].metadata))


@dataclass
class TrainingArguments(DistillationArguments):
    """The training arguments, with defaults that suit the flags above."""

    eval_strategy: str = _other_default("eval_strategy", "epoch")
    save_strategy: str = _other_default("save_strategy", "epoch")
    save_total_limit: int | None = _other_default("save_total_limit", 1)
    eval_agreement: bool = _other_default("eval_agreement", True)
    measure_run: bool = _other_default("measure_run", True)
    logging_steps: float = _other_default("logging_steps", 50)
    per_device_train_batch_size: int = _other_default("per_device_train_batch_size", 32)
    per_device_eval_batch_size: int = _other_default("per_device_eval_batch_size", 64)
    resume_from_checkpoint: str | None = field(
        default=AUTO,
        metadata={
            "help": "auto goes on from the newest complete checkpoint, or begins if there is none; True wants one to "
            "be there; False begins; or the folder of a checkpoint. Default: auto."
        },
    )


def parser(*more: type, prog: str | None = None, description: str | None = None) -> FlagParser:
    """Return the parser of a run's flags.

    Args:
        more: Further dataclasses of flags; they come last.
        prog: What the program is called; by default after its file.
        description: What it does.
    """
    theirs = frozenset(one.name for one in fields(transformers.TrainingArguments))
    ours: dict[str, type] = {
        "how to distil": RunArguments,
        "models": ModelArguments,
        "images": DataArguments,
        "training": TrainingArguments,
    }
    for kind in more:
        title = (kind.__doc__ or kind.__name__).split("\n")[0].removesuffix(".").removesuffix(", as flags")
        ours[title[0].lower() + title[1:]] = kind
    return FlagParser(ours, last=("training, as in transformers", theirs), prog=prog, description=description)


def with_methods(flags_parser: FlagParser, methods: Mapping[str, str]) -> FlagParser:
    """Return a parser whose `--method` offers these methods; the last of them is the default."""
    offered = flags_parser.action_of("method")
    offered.choices = list(methods)
    told = ", ".join(f"{name} ({title})" for name, title in methods.items())
    offered.help = f"What the student is trained by: {told}. Default: {list(methods)[-1]}."
    return flags_parser


def parse(flags_parser: FlagParser, words: Sequence[str] | None = None) -> tuple[Any, ...]:
    """Return the dataclasses that the words of a command line fill, in the order of `parser`.

    Args:
        flags_parser: The parser.
        words: The words; by default those of this process.

    Raises:
        ValueError: If a flag is unknown, or its value is not possible.
    """
    filled = flags_parser.fill(words)
    run, args = filled[0], filled[3]
    if run.kd_weight is not None and not 0 <= run.kd_weight <= 1:
        raise ValueError(
            f"--kd_weight is from 0 to 1, as the labels get the rest (1 - kd_weight); got {run.kd_weight:g}. In "
            "Python, knowledge_distillation(weight=..., label_weight=...) takes any two weights"
        )
    if Path(args.output_dir or "").is_file():
        raise ValueError(f"--output_dir {args.output_dir} is a file; name a folder")
    if run.seeds and len(set(run.seeds)) < len(run.seeds):
        raise ValueError(f"--seeds names a seed twice: {' '.join(map(str, run.seeds))}")
    words_for = {"true": True, "false": None, "none": None, "": None}
    asked = args.resume_from_checkpoint
    args.resume_from_checkpoint = words_for.get((asked or "").lower(), asked)
    return filled


def methods_of(chosen: MethodArguments, methods: Mapping[str, str] = METHODS, *, compare: bool = False) -> list[str]:
    """Return what is trained: all methods that are compared, or one.

    Args:
        chosen: The flags.
        methods: The methods there are; the last of them is trained if no flag says which.
        compare: Whether they are compared if no flag says which one is trained.

    Raises:
        ValueError: If flags contradict each other.
    """
    if chosen.compare and chosen.method is not None:
        raise ValueError(f"--compare trains by every method ({', '.join(methods)}): leave out it or --method")
    if chosen.compare or (compare and chosen.method is None):
        return list(methods)
    return [chosen.method or list(methods)[-1]]


def titles(run: RunArguments) -> Mapping[str, str]:
    """Return what the methods are called in tables, as the flags make them: without KD, AB is followed by labels."""
    return {**METHODS, "ab": "AB, then labels"} if run.kd_weight == 0 else METHODS
