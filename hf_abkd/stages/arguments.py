"""DistillationArguments: the training arguments of transformers, and what distillation adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import SchedulerType, TrainingArguments
from transformers.training_args import OptimizerNames

from hf_abkd.settings import number, whole_number

#: The arguments that are None unless they are given, with the defaults that transformers has for them. What suits the
#: student is filled in by `SuitedArguments`.
OPEN_ARGUMENTS: Mapping[str, Any] = {
    "learning_rate": 5e-5,
    "lr_scheduler_type": SchedulerType.LINEAR,
    "warmup_steps": 0.0,
    "optim": OptimizerNames(TrainingArguments.default_optim),
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "decay_norm_and_bias": False,
}


def _open(name: str, help_: str = "") -> Mapping[str, Any]:
    """Return the metadata of a field that is None unless it is given, with the help that transformers has for it."""
    theirs = TrainingArguments.__dataclass_fields__
    told = help_ or theirs[name].metadata["help"].rstrip()
    return {"help": f"{told} Default: what suits the student."}


@dataclass
class DistillationArguments(TrainingArguments):
    """Training arguments of a distillation run; every flag of `transformers.TrainingArguments` keeps its meaning.

    The arguments of the optimiser and the learning rate are None unless they are given: a run then takes what suits its
    student, tells what that is, and says so in the model card; see `hf_abkd.stages.suited_arguments`. With a
    `learning_rate` that is given, the optimiser is that of transformers unless `optim` names another one.

    Without an accelerator `dataloader_pin_memory` is off, where torch would ignore it and warn.

    Args:
        lr_milestones: Shares of a stage, in (0, 1), at which the learning rate is multiplied by `lr_gamma`, after
            which it follows this in the place of `lr_scheduler_type`. Heo et al. use 0.3 0.6 0.8 with 0.2.
        lr_gamma: The factor of each of these drops.
        momentum_delta: Give the gradient of the terms that compare with labels alone a momentum that is smaller by this
            than that of SGD, and that of the terms that compare with the teacher one that is larger by it, as the
            distillation-oriented trainer (Zhao et al., ICCV 2023) does with 0.075; see
            `hf_abkd.training.split_momentum`. It takes plain SGD with a momentum, stages with terms of both kinds, and
            the time of a second backward pass; not with fp16 or torch_compile. Gradients are clipped by the norm of
            their sum.
        decay_norm_and_bias: Apply weight decay to tensors of one dimension too (biases, normalisation weights).
        evaluate_teacher: Measure the teacher's accuracy on the evaluation data before the first step.
        measure_run: Ask the student about the evaluation images before the first step, too, for
            `DistillationTrainer.measure`. The command line calls that at the end of a run.
        eval_agreement: Run the teacher during evaluation too, and report how often the student predicts the
            teacher's class and, per layer, lies on the teacher's side of the activation boundaries.
        teacher_precision: `auto` (as the student: the training precision), `fp32`, `bf16` or `fp16`.
        teacher_fold_batch_norm: Evaluate the teacher with each BatchNorm folded into the convolution before it, in a
            copy that is compared with the teacher first. By default yes; True warns where it is not possible.
        teacher_channels_last: Evaluate the teacher with the channels of images together in memory, likewise in a
            compared copy. By default on a CPU for narrow or depthwise convolutions, which were measured to gain.
        teacher_in_place: Let the teacher's activations overwrite what they are given, wherever nothing else reads it,
            likewise in a compared copy. By default yes, unless the teacher is compiled.
        student_channels_last: Train the student with the channels of images together in memory. By default on a CPU for
            narrow or depthwise convolutions, which were measured to gain. Saved weights lie as always.
        teacher_compile: Compile the teacher: minutes at the beginning of each stage, less time per step.
        teacher_quantize: Compute the teacher's linear layers in 8-bit integers, on a CPU: faster for transformers, and
            answers that are some per cent off. Refused where they are more than a quarter of their spread off.
        quantize_aware: "int8" trains the student as it will compute after `hf-abkd export --quantize int8`: the weights
            and inputs of its linear layers and convolutions are rounded to 8 bits by torchao (the extra
            `quantization`), while the weights that are trained and published stay in float32. An evaluation then gives
            the accuracy in floating point and, as `int8_accuracy`, in 8 bits. A stage may say otherwise
            (`arguments={"quantize_aware": ...}`); see `docs/export.md`.
        student_start: What the student counts as where settings are chosen for it: `random` or `trained` weights.
            `auto` reads it from its tensors, which look trained also where they are slices of trained ones and do best
            as `random` (`student_from_teacher(width=...)`).
        term_gradient_steps: In how many first steps of each stage with several terms the norm of each term's gradient
            on the student is measured and logged, as its ratio to the largest other one (`gradient_ratio/...`; each
            process measures its own batch). Each costs a forward pass and a backward pass per term. 0 measures
            nothing.
        balance_terms: Give a term whose gradient is more than ten times that of every other the weight that makes it
            equal to the next.
        augmentation_seed: The seed of the augmented views; by default that of the run.
        augmentation_views: How many different views there are of each image; they take turns from epoch to epoch. By
            default every epoch has its own.
        overwrite_output_dir: Delete the checkpoints of another run in `output_dir` instead of refusing to start.

    Raises:
        ValueError: If a setting is not possible, or reentrant activation checkpointing is asked for.

    Example:
        >>> args = DistillationArguments(output_dir="student", lr_milestones=[0.3, 0.6, 0.8], lr_gamma=0.2)
        >>> args.learning_rate is None, args.lr_milestones
        (True, [0.3, 0.6, 0.8])
    """

    learning_rate: float | None = field(default=None, metadata=_open("learning_rate"))
    lr_scheduler_type: SchedulerType | str | None = field(default=None, metadata=_open("lr_scheduler_type"))
    warmup_steps: float | None = field(default=None, metadata=_open("warmup_steps"))
    optim: OptimizerNames | str | None = field(default=None, metadata=_open("optim"))
    weight_decay: float | None = field(default=None, metadata=_open("weight_decay", "Weight decay."))
    max_grad_norm: float | None = field(default=None, metadata=_open("max_grad_norm"))
    lr_milestones: list[float] | None = field(
        default=None,
        metadata={
            "help": "Shares of a stage at which the learning rate is multiplied by --lr_gamma, e.g. 0.3 0.6 0.8."
        },
    )
    lr_gamma: float = field(default=0.1, metadata={"help": "The factor of each learning rate drop."})
    momentum_delta: float | None = field(
        default=None,
        metadata={
            "help": "Split the momentum of SGD: smaller by this for labels, larger for the teacher, e.g. 0.075 (DOT)."
        },
    )
    decay_norm_and_bias: bool | None = field(
        default=None, metadata=_open("", "Apply weight decay to biases and normalisation weights too.")
    )
    evaluate_teacher: bool = field(
        default=True, metadata={"help": "Measure the teacher on the evaluation data before the first step."}
    )
    measure_run: bool = field(
        default=False,
        metadata={
            "help": "Ask the student about the evaluation images before the first step, too, and measure at the end "
            "how good student and teacher are and what they cost: one pass more, and some seconds."
        },
    )
    eval_agreement: bool = field(
        default=False,
        metadata={"help": "Report the agreement with the teacher (classes, boundaries per layer) in evaluations."},
    )
    teacher_precision: str = field(
        default="auto",
        metadata={"help": "Precision of the teacher: auto (as the student), fp32, bf16 or fp16."},
    )
    teacher_fold_batch_norm: bool | None = field(
        default=None,
        metadata={"help": "Fold the teacher's BatchNorm into its convolutions. Default: where it changes nothing."},
    )
    teacher_channels_last: bool | None = field(
        default=None,
        metadata={
            "help": "Keep the channels of the teacher's images together. Default: where it is known to be faster."
        },
    )
    teacher_in_place: bool | None = field(
        default=None,
        metadata={
            "help": "Let the teacher's activations overwrite their input. Default: wherever nothing else reads it."
        },
    )
    student_channels_last: bool | None = field(
        default=None,
        metadata={
            "help": "Keep the channels of the student's images together. Default: where it is known to be faster."
        },
    )
    teacher_compile: bool = field(
        default=False, metadata={"help": "Compile the teacher: minutes per stage, less time per step."}
    )
    teacher_quantize: bool = field(
        default=False, metadata={"help": "Compute the teacher's linear layers in 8-bit integers, on a CPU."}
    )
    quantize_aware: str | None = field(
        default=None,
        metadata={"help": "int8 trains the student as it will compute in 8 bits (export --quantize int8)."},
    )
    student_start: str = field(
        default="auto",
        metadata={
            "help": "What the student counts as where settings are chosen for it: random or trained weights, or auto, "
            "which reads it from its tensors."
        },
    )
    term_gradient_steps: int = field(
        default=3,
        metadata={"help": "First steps of a stage in which the gradient of each term is measured; 0 measures nothing."},
    )
    balance_terms: bool = field(
        default=False, metadata={"help": "Balance a term whose gradient is over ten times that of every other."}
    )
    augmentation_seed: int | None = field(
        default=None, metadata={"help": "Seed of the augmented views. Default: that of the run."}
    )
    augmentation_views: int | None = field(
        default=None,
        metadata={"help": "Different views of each image, which take turns. Default: a new one in each epoch."},
    )
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Delete the checkpoints of another run in --output_dir."}
    )

    def __post_init__(self) -> None:
        """Check numbers, and what distillation adds."""
        _check_numbers(self)
        open_ones = [name for name in OPEN_ARGUMENTS if getattr(self, name) is None]
        for name in open_ones:
            # What transformers checks and converts here has to be there.
            setattr(self, name, OPEN_ARGUMENTS[name])
        super().__post_init__()
        for name in open_ones:
            setattr(self, name, None)
        if self.device.type == "cpu":
            # Pinned memory is for copies to an accelerator: without one torch ignores it, and warns of it each epoch.
            self.dataloader_pin_memory = False
        rising_shares(self.lr_milestones or [])
        if self.teacher_precision not in ("auto", "fp32", "bf16", "fp16"):
            raise ValueError(f"teacher_precision must be auto, fp32, bf16 or fp16, got {self.teacher_precision!r}")
        if self.student_start not in ("auto", "random", "trained"):
            raise ValueError(f"student_start must be auto, random or trained, got {self.student_start!r}")
        for name in ("teacher_fold_batch_norm", "teacher_channels_last", "teacher_in_place", "student_channels_last"):
            if getattr(self, name) not in (None, True, False):
                raise ValueError(
                    f"{name} must be True, False, or None to let it be chosen, got {getattr(self, name)!r}"
                )
        self.quantize_aware = quantization_grid(self.quantize_aware)
        for name in ("teacher_compile", "teacher_quantize"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.teacher_compile and self.teacher_quantize:
            raise ValueError("teacher_compile and teacher_quantize do not go together: choose one of them")
        if self.balance_terms and self.term_gradient_steps == 0:
            raise ValueError("balance_terms needs steps in which it measures: set term_gradient_steps above 0")
        # The first two are transformers' own; torch takes the rest, and is reentrant unless they say otherwise.
        checkpointing = dict(self.activation_checkpointing_kwargs or {})
        passed_on = set(checkpointing) - {"every_n_layers", "offload"}
        if self.activation_checkpointing and passed_on and checkpointing.get("use_reentrant") is not False:
            # Captured tensors would be made without a graph: gradients would be wrong, and nothing would say so.
            raise ValueError(
                "reentrant activation checkpointing loses the gradients of captured features; "
                'use activation_checkpointing_kwargs={"use_reentrant": False}'
            )


#: The settings that are numbers, with their range: those of transformers too, which checks few of them.
NUMBERS: Mapping[str, Mapping[str, float]] = {
    "learning_rate": {"least": 0},
    "weight_decay": {"least": 0},
    "adam_beta1": {"least": 0, "below": 1},
    "adam_beta2": {"least": 0, "below": 1},
    "adam_epsilon": {"least": 0},
    "max_grad_norm": {"least": 0},
    "num_train_epochs": {"above": 0},
    "warmup_steps": {"least": 0},
    "label_smoothing_factor": {"least": 0, "below": 1},
    "logging_steps": {"least": 0},
    "save_steps": {"least": 0},
    "eval_steps": {"least": 0},
    "eval_delay": {"least": 0},
    "lr_gamma": {"above": 0},
    "momentum_delta": {"least": 0, "below": 1},
}
WHOLE_NUMBERS: Mapping[str, Mapping[str, int]] = {
    "max_steps": {"least": -1},
    "per_device_train_batch_size": {"least": 1},
    "per_device_eval_batch_size": {"least": 1},
    "gradient_accumulation_steps": {"least": 1},
    "dataloader_num_workers": {"least": 0},
    "seed": {"least": 0, "most": 2**32 - 1},
    "data_seed": {},
    "term_gradient_steps": {"least": 0},
    "augmentation_seed": {},
    "augmentation_views": {"least": 1},
}
_MAY_BE_NONE = {
    "eval_steps",
    "eval_delay",
    "data_seed",
    "augmentation_seed",
    "augmentation_views",
    "momentum_delta",
    *OPEN_ARGUMENTS,
}


def _check_numbers(args: DistillationArguments) -> None:
    """Make numbers those of Python, which go into files, and refuse impossible ones by the name of the setting.

    Raises:
        TypeError: If something is no number.
        ValueError: If a number is not finite, or out of range.
    """
    for name, bounds in {**NUMBERS, **WHOLE_NUMBERS}.items():
        value = getattr(args, name)
        if value is None and name in _MAY_BE_NONE:
            continue
        checked = whole_number if name in WHOLE_NUMBERS else number
        setattr(args, name, checked(name, value, **bounds))  # type: ignore[arg-type]
    if args.max_steps == 0:
        raise ValueError("max_steps is 0, which trains nothing: give steps, or leave it out to go by epochs")


def quantization_grid(value: str | None) -> str | None:
    """Return what a student is trained for, if it is possible: "int8", or None for floating point.

    Raises:
        ValueError: If it is anything else.
    """
    if value not in (None, "int8"):
        raise ValueError(f"quantize_aware must be int8, or None for floating point, got {value!r}")
    return value


def rising_shares(milestones: Sequence[float]) -> list[float]:
    """Return the learning rate milestones if they are possible.

    Raises:
        ValueError: If they are not rising shares of a stage.
    """
    shares = [float(milestone) for milestone in milestones]
    if any(not 0 < share < 1 for share in shares) or sorted(set(shares)) != shares:
        raise ValueError(f"lr_milestones must be rising shares between 0 and 1, got {milestones}")
    return shares
