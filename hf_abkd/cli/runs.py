"""Runs: from the flags of a command line to a trainer, the same for training and for what examines a run before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from transformers import HfArgumentParser, PreTrainedModel

from hf_abkd.cli.workload import Workload
from hf_abkd.data.arguments import DataArguments
from hf_abkd.data.augment import Augmentation, Compose, RandomCrop, RandomHorizontalFlip
from hf_abkd.layers.plan import Plan
from hf_abkd.methods import activation_boundary, knowledge_distillation
from hf_abkd.models.arguments import ModelArguments
from hf_abkd.reports.metrics import classification_metrics
from hf_abkd.stages.arguments import DistillationArguments
from hf_abkd.stages.stage import Stage
from hf_abkd.training.trainer import DistillationTrainer

Method = Literal["alone", "kd", "ab"]
#: What is compared, and what it is called in tables.
METHODS: dict[Method, str] = {"alone": "student alone", "kd": "KD", "ab": "AB, then KD"}


@dataclass
class RunArguments:
    """How to distil, as flags for ``transformers.HfArgumentParser``."""

    student_layers: list[str] | None = field(
        default=None,
        metadata={"help": "Modules of the student, in the order of --teacher_layers. Default: paired automatically."},
    )
    teacher_layers: list[str] | None = field(default=None, metadata={"help": "Modules of the teacher."})
    plan: str | None = field(
        default=None, metadata={"help": "YAML file with the pairs of layers, as `hf-abkd inspect --plan` writes it."}
    )
    initialization_share: float = field(default=0.3, metadata={"help": "Share of the run that AB takes before KD."})
    boundary_weight: float = field(default=1.0, metadata={"help": "Weight of the boundary objective per layer."})
    temperature: float = field(default=4.0, metadata={"help": "Temperature of KD."})
    kd_weight: float = field(default=0.9, metadata={"help": "Weight of KD; the labels get the rest."})
    baseline: bool = field(default=False, metadata={"help": "Train the student alone, without the teacher."})
    compare: bool = field(default=False, metadata={"help": "Train alone, by KD and by AB then KD; print a table."})
    seeds: list[int] | None = field(default=None, metadata={"help": "Seeds of --compare. Default: --seed."})
    crop_padding: int = field(default=0, metadata={"help": "Random crops after padding by so many pixels."})
    flip: bool = field(default=False, metadata={"help": "Flip half of the images left to right."})


@dataclass
class TrainingArguments(DistillationArguments):
    """The training arguments, with defaults that suit the flags above."""

    eval_strategy: str = "epoch"
    save_strategy: str = "epoch"
    save_total_limit: int | None = 1
    eval_agreement: bool = True
    logging_steps: float = 50


def parser(*more: type) -> HfArgumentParser:
    """Return the parser of a run's flags.

    Args:
        more: Further dataclasses of flags; they come last.
    """
    return HfArgumentParser((RunArguments, ModelArguments, DataArguments, TrainingArguments, *more))


def parse(flags_parser: HfArgumentParser, words: Sequence[str] | None = None) -> tuple[Any, ...]:
    """Return the dataclasses that the words of a command line fill, in the order of `parser`.

    Args:
        flags_parser: The parser.
        words: The words; by default those of this process.

    Raises:
        ValueError: If a flag is unknown, or its value is not possible.
    """
    filled: tuple[Any, ...] = flags_parser.parse_args_into_dataclasses(None if words is None else list(words))
    args = filled[3]
    if (args.resume_from_checkpoint or "").lower() == "true":
        args.resume_from_checkpoint = True
    return filled


def method_of(run: RunArguments, work: Workload) -> Method:
    """Return what a run without `--compare` trains.

    Raises:
        ValueError: If it needs a teacher and there is none.
    """
    if work.teacher is None and not run.baseline:
        raise ValueError("--teacher_name_or_path is missing; --baseline trains the student alone")
    return "alone" if run.baseline else "ab"


def stages_of(method: Method, run: RunArguments) -> list[Stage] | None:
    """Return the stages of a method; None trains the student alone.

    Raises:
        FileNotFoundError: If there is no such plan.
        ValueError: If flags contradict each other, or a value is not possible.
    """
    if method == "alone":
        return None
    kd = knowledge_distillation(temperature=run.temperature, weight=run.kd_weight, label_weight=1 - run.kd_weight)
    if method == "kd":
        return kd
    return activation_boundary(
        _layers(run),
        weight=run.boundary_weight,
        initialization_share=run.initialization_share,
        classification=[term for stage in kd for term in stage.each_term()],
    )


def make_trainer(
    student: PreTrainedModel,
    work: Workload,
    args: DistillationArguments,
    run: RunArguments,
    stages: Sequence[Stage] | None,
) -> DistillationTrainer:
    """Return the trainer of some stages; methods that are compared differ in their stages alone.

    Raises:
        ValueError: If models, images and stages do not fit.
    """
    return DistillationTrainer(
        student,
        args,
        teacher=work.teacher if stages else None,
        teacher_processor=work.teacher_processor if stages else None,
        stages=stages,
        augmentation=augmentation_of(run.crop_padding, flip=run.flip),
        train_dataset=work.train,
        eval_dataset=work.validation,
        processing_class=work.processor,
        compute_metrics=classification_metrics(),
    )


def augmentation_of(crop_padding: int, *, flip: bool) -> Augmentation | None:
    """Return the augmentation that the flags ask for, None for none."""
    augmentations: list[Augmentation] = [RandomCrop(padding=crop_padding)] if crop_padding else []
    augmentations += [RandomHorizontalFlip()] if flip else []
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
