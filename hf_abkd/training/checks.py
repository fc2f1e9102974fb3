"""What a run is refused for before anything is made of it: its student, and how its processes were launched."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.trainer_utils import has_length

from hf_abkd.layers.capture import refuse_compiled
from hf_abkd.models import adapters
from hf_abkd.models.loadable import check_loadable
from hf_abkd.models.placement import is_dispatched
from hf_abkd.models.tasks.image_classification import IMAGE_CLASSIFICATION
from hf_abkd.models.tasks.task import Task
from hf_abkd.models.usable import check_usable
from hf_abkd.objectives import CrossEntropy
from hf_abkd.stages.arguments import DistillationArguments
from hf_abkd.stages.stage import Stage
from hf_abkd.stages.term import Term
from hf_abkd.wording import shown_command

logger = logging.getLogger(__name__)


def checked_stages(
    stages: Sequence[Stage] | None, teacher: object, trainer_arguments: Mapping[str, Any]
) -> Sequence[Stage]:
    """Return the stages of a run; without any, and without a teacher, the one of cross-entropy fine-tuning.

    Args:
        stages: What a user gave.
        teacher: The teacher, or None.
        trainer_arguments: The other arguments of the trainer.

    Raises:
        ValueError: If the stages and the other arguments do not go together.
    """
    if trainer_arguments.get("compute_loss_func") is not None:
        raise ValueError(
            "DistillationTrainer computes its loss from terms; write a subclass of Objective and put it into a "
            "Term instead of passing compute_loss_func"
        )
    if stages is None:
        if teacher is not None:
            raise ValueError(
                "a teacher was given, but no `stages` that say what is learnt from it; "
                "use for example stages=activation_boundary(...) or stages=knowledge_distillation()"
            )
        return [Stage(terms=[Term(CrossEntropy())], name="fine-tuning")]
    if not stages:
        raise ValueError("`stages` is empty; leave it out for cross-entropy fine-tuning")
    if len(stages) > 1 and tuple(trainer_arguments.get("optimizers", ())) not in ((), (None, None)):
        raise ValueError("`optimizers` serves one stage; with several, give each Stage its own `optimizer`")
    return stages


def checked_student(model: nn.Module, task: Task = IMAGE_CLASSIFICATION) -> PreTrainedModel:
    """Return the student of a run, checked: of a `PeftModel` the model inside, its adapters in place."""
    student = adapters.unwrapped(model)
    task.check_model(student, "student")
    check_student(student)
    IMAGE_CLASSIFICATION.name_unnamed(student.config)
    return student


def check_student(student: nn.Module) -> None:
    """Refuse a student that could not be saved, resumed and published.

    Raises:
        TypeError: If it is compiled, no `PreTrainedModel`, its weights are in half precision, or it has adapters that
            cannot be merged into its weights.
        ValueError: If its config has no classes, it has adapters that are merged already, switched off, or not
            trainable, or weights without values, or could not be loaded from what is saved of it.
    """
    check_usable(student, "student")
    refuse_compiled(student)
    if not isinstance(student, PreTrainedModel):
        raise TypeError(
            f"the student must be a PreTrainedModel, got {type(student).__name__}: only then can it be saved, resumed "
            "and published so that Auto classes load it. Wrap it in a PreTrainedModel with a config; see "
            "examples/cifar_models.py."
        )
    if student.dtype in (torch.float16, torch.bfloat16):
        raise TypeError(
            f"the student's weights are {student.dtype}: small updates would be lost in them. Load it with "
            "dtype=torch.float32 and set bf16=True or fp16=True, which computes in half precision all the same."
        )
    if student.config.num_labels is None:
        raise ValueError(
            "the student's config.id2label is None, so nobody knows how many classes it has; give each a name, "
            "`student.config.id2label = dict(enumerate(names))`"
        )
    adapters.check_adapters(student)
    check_loadable(student)


def refuse_reentrant(student: nn.Module) -> None:
    """Refuse a student whose reentrant activation checkpointing was switched on by hand.

    Raises:
        ValueError: If it is on.
    """
    for module in student.modules():
        settings = getattr(getattr(module, "_gradient_checkpointing_func", None), "keywords", {})
        if getattr(module, "gradient_checkpointing", False) and settings.get("use_reentrant"):
            raise ValueError(
                "the student's activation checkpointing is reentrant, which loses the gradients of captured features; "
                'use student.activation_checkpointing_enable({"use_reentrant": False})'
            )


def check_launch(args: DistillationArguments, teacher: object = None) -> None:
    """Refuse arguments of another trainer, and a run whose processes are not what was asked for.

    Args:
        args: The training arguments.
        teacher: The teacher; one that lies on several GPUs is why one process sees them.

    Raises:
        TypeError: If the arguments are no `DistillationArguments`.
        RuntimeError: If several GPUs are visible to one process, or the processes of a launch do not work together.
    """
    if not isinstance(args, DistillationArguments):
        raise TypeError(f"args must be DistillationArguments, got {type(args).__name__}; it takes the same flags")
    script = shown_command([os.path.relpath(sys.argv[0]) if sys.argv[0] else "script.py", *sys.argv[1:]])
    if args.n_gpu > 1 and isinstance(teacher, nn.Module) and is_dispatched(teacher):
        # As transformers does for a model of its own that lies on several: the student is on the first one.
        args._n_gpu = 1
    if args.n_gpu > 1:
        raise RuntimeError(
            f"{args.n_gpu} GPUs are visible and there is one process: torch.nn.DataParallel would break the capture of "
            "features. Start one process per GPU:\n"
            f"  accelerate launch --multi_gpu --num_processes {args.n_gpu} {script}\n"
            "or make one GPU visible: CUDA_VISIBLE_DEVICES=0"
        )
    asked = int(os.environ.get("WORLD_SIZE", "1"))
    if asked != args.world_size:
        raise RuntimeError(
            f"{asked} processes were launched, but each of them works alone (world size {args.world_size}). Without a "
            "GPU, pass --use_cpu (or set ACCELERATE_USE_CPU=true) so that they find each other."
        )


def check_rows(loader: Any, train: Any, evaluation: Any, args: DistillationArguments) -> None:
    """Refuse data that make no step, or nothing to measure.

    Args:
        loader: The batches of an epoch, of one process.
        train: The training set.
        evaluation: The evaluation set, several by name, or None.
        args: The training arguments.

    Raises:
        ValueError: If there are too few rows for the processes or for a batch, or none to evaluate on.
    """
    rows = len(train) if has_length(train) else None
    if rows is not None and rows < args.world_size:
        raise ValueError(f"{rows} training rows are too few for {args.world_size} processes: each needs one")
    if has_length(loader) and len(loader) == 0:
        batch = f"{args.train_batch_size}" + (f" x {args.world_size} processes" if args.world_size > 1 else "")
        raise ValueError(
            f"{rows} training rows make no batch of {batch}, and dataloader_drop_last drops what is left over: take a "
            "smaller per_device_train_batch_size, or leave dataloader_drop_last out"
        )
    if rows is None and args.dataloader_drop_last:
        logger.warning("dataloader_drop_last has no effect on a stream: its last batch is trained on")
    for name, dataset in (evaluation if isinstance(evaluation, dict) else {"": evaluation}).items():
        if dataset is not None and has_length(dataset) and len(dataset) == 0:
            raise ValueError(f"the evaluation set {repr(name) + ' ' if name else ''}has no rows: leave it out")


def check_search(trial: object, stages: Sequence[object]) -> None:
    """Refuse a trial of a hyperparameter search over several stages.

    Raises:
        NotImplementedError: If it is one.
    """
    if trial is not None and len(stages) > 1:
        raise NotImplementedError(
            "a hyperparameter search sets arguments of the run, and stages have their own: search with one stage"
        )


def check_parallelism(*, fsdp: bool, deepspeed: bool) -> None:
    """Refuse to run with parts of a model on each device.

    Raises:
        NotImplementedError: If Accelerate was asked for FSDP or DeepSpeed.
    """
    if fsdp or deepspeed:
        raise NotImplementedError(
            "DistillationTrainer runs on one device or with DDP; FSDP and DeepSpeed are not supported"
        )
