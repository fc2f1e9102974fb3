"""Runs: from the flags of a command line to a trainer, the same for training and for what examines a run before."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import transformers
from transformers import PreTrainedModel

from hf_abkd.cli.flags import FlagParser
from hf_abkd.cli.labelled_alone import labelled_alone
from hf_abkd.cli.output import write_line
from hf_abkd.cli.workload import Workload
from hf_abkd.data.arguments import DataArguments
from hf_abkd.data.augment import Augmentation, Compose, RandomCrop, RandomHorizontalFlip
from hf_abkd.data.mixing import CutMix
from hf_abkd.layers.plan import Plan
from hf_abkd.methods import BOUNDARY_WEIGHT, INITIALIZATION_SHARE, activation_boundary, knowledge_distillation
from hf_abkd.models.arguments import ModelArguments
from hf_abkd.models.start import start_of
from hf_abkd.reports.metrics import classification_metrics
from hf_abkd.stages.arguments import DistillationArguments
from hf_abkd.stages.stage import Stage
from hf_abkd.teachers.cache.teacher_cache import TeacherCache
from hf_abkd.training.life.run_folder import AUTO
from hf_abkd.training.trainer import DistillationTrainer

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


def check_teacher(methods: Sequence[str], models: ModelArguments) -> None:
    """Refuse methods that need a teacher where the flags name none.

    Raises:
        ValueError: If there is none.
    """
    if models.teacher_name_or_path is None and any(method != "alone" for method in methods):
        raise ValueError("--teacher_name_or_path is missing; --method alone trains the student without a teacher")


def check_unlabelled(methods: Sequence[str], data: DataArguments) -> None:
    """Refuse images without labels where nothing learns from them; of several methods, tell who does without.

    Args:
        methods: The methods that students are trained by; "alone" learns from labels only.
        data: Which images.

    Raises:
        ValueError: If no method learns from them.
    """
    if not data.names_unlabelled:
        return
    if all(method == "alone" for method in methods):
        alone = " (--method alone learns from labels only): choose a method with a teacher, or" if methods else ":"
        raise ValueError(
            f"nothing here learns from images without labels{alone} leave out --unlabelled_files and --unlabelled_dir"
        )
    if "alone" in methods and os.environ.get("RANK", "0") == "0":
        title = METHODS["alone"]
        write_line(f"{title}: trained on the images with labels only, for as many steps as the other methods")


def stages_of(method: str, run: RunArguments) -> list[Stage] | None:
    """Return the stages of a method; None trains the student alone.

    Raises:
        FileNotFoundError: If there is no such plan.
        ValueError: If flags contradict each other, or a value is not possible.
    """
    if method == "alone":
        return None
    given: dict[str, Any] = (
        {} if run.kd_weight is None else {"weight": run.kd_weight, "label_weight": 1 - run.kd_weight}
    )
    given |= {} if run.temperature is None else {"temperature": run.temperature}
    kd = knowledge_distillation(**given)
    if method == "kd":
        if run.kd_weight == 0:
            raise ValueError("--kd_weight 0 leaves nothing of KD: --method alone trains by the labels")
        return kd
    if not 0 < run.initialization_share < 1:
        raise ValueError(
            "--initialization_share is the share of the run that AB takes before KD, between 0 and 1; got "
            f"{run.initialization_share:g}. --method kd trains by KD from the start"
        )
    return activation_boundary(
        _layers(run),
        weight=run.boundary_weight,
        initialization_share=run.initialization_share,
        # Without a word on KD, each method has the terms that suit it.
        classification=[term for stage in kd for term in stage.each_term()] if given else None,
    )


def make_trainer(
    student: PreTrainedModel,
    work: Workload,
    args: DistillationArguments,
    run: RunArguments,
    stages: Sequence[Stage] | None,
    augmentation: Augmentation | Literal["auto"] | None = "auto",
) -> DistillationTrainer:
    """Return the trainer of some stages; methods that are compared differ in their stages alone.

    Args:
        student: The student.
        work: Teacher and images.
        args: The training arguments.
        run: How the images are augmented, where `augmentation` does not say so.
        stages: The stages; None trains the student alone.
        augmentation: What changes the images of each batch; "auto" for what the flags say or suits the student.

    Raises:
        ValueError: If models, images and stages do not fit.
    """
    if work.validation is None and args.eval_strategy != "no":
        if args.load_best_model_at_end:
            raise ValueError(
                "--load_best_model_at_end needs evaluation images to tell the best by: give validation data "
                "(--validation_files, --validation_dir), or a --train_val_split above 0"
            )
        # Evaluating is this command's default, and --train_val_split 0 leaves nothing to do it on.
        changes: dict[str, Any] = {"eval_strategy": "no"}
        args = replace(args, **changes)
    if args.student_start == "auto":
        args = replace(args, student_start=work.student_start)
    if not stages:
        work, args = labelled_alone(work, args)
    _check_best(args, agreement=bool(stages))
    if augmentation == "auto":
        augmentation = augmentation_of(
            _crop_padding(run, student, work, args.student_start), flip=run.flip, cutmix=run.cutmix
        )
    return DistillationTrainer(
        student,
        args,
        teacher=work.teacher if stages else None,
        # The student alone sees what the others see, which for two processors is made of pixels that fit both.
        teacher_processor=work.teacher.processor if isinstance(work.teacher, TeacherCache) else work.teacher_processor,
        stages=stages,
        augmentation=augmentation,
        train_dataset=work.train,
        eval_dataset=work.validation,
        processing_class=work.processor,
        compute_metrics=classification_metrics(),
    )


def _check_best(args: DistillationArguments, *, agreement: bool) -> None:
    """Refuse a best model by what no evaluation measures, which transformers does after the first one."""
    name = (args.metric_for_best_model or "loss").removeprefix("eval_")
    measured = ["accuracy", "loss"] + (["teacher_agreement"] if agreement and args.eval_agreement else [])
    chooses = args.load_best_model_at_end or args.save_strategy == "best"
    if chooses and name not in measured and not name.startswith("boundary_agreement/"):
        raise ValueError(f"--metric_for_best_model {name} is not measured; evaluations measure {', '.join(measured)}")


def _crop_padding(run: RunArguments, student: PreTrainedModel, work: Workload, weights: str) -> float:
    """Return by how much images are shifted; what a cached teacher saw is told by the flags alone."""
    if run.crop_padding is not None:
        return run.crop_padding
    return 0 if isinstance(work.teacher, TeacherCache) or start_of(student, weights).trained else 1 / 8


def augmentation_of(crop_padding: float, *, flip: bool, cutmix: bool = False) -> Augmentation | None:
    """Return the augmentation that the flags ask for, None for none."""
    padding = crop_padding if crop_padding % 1 else int(crop_padding)
    augmentations: list[Augmentation] = [RandomCrop(padding=padding)] if crop_padding else []
    augmentations += [RandomHorizontalFlip()] if flip else []
    augmentations += [CutMix()] if cutmix else []
    return Compose(augmentations) if augmentations else None


def _layers(run: RunArguments) -> Plan | list[tuple[str, str]] | None:
    named = run.student_layers or [], run.teacher_layers or []
    if run.plan is not None:
        if any(named):
            raise ValueError(
                "--plan names the layers already: leave out --student_layers and --teacher_layers, or put them into "
                f"{run.plan}"
            )
        return Plan.load(run.plan)
    if len(named[0]) != len(named[1]):
        raise ValueError(
            f"--student_layers and --teacher_layers must name as many layers each, got {named[0]} and {named[1]}. "
            "Leave both out to have them paired automatically."
        )
    return list(zip(*named, strict=True)) or None
