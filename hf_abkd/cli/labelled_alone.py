"""The student alone in a comparison: it learns from the labelled images only, for as many steps as the others."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from datasets import Dataset
from transformers.trainer_utils import IntervalStrategy

from hf_abkd.cli.workload import Workload
from hf_abkd.stages.arguments import DistillationArguments


def labelled_alone(work: Workload, args: DistillationArguments) -> tuple[Workload, DistillationArguments]:
    """Return a workload without the images that have no label, and the arguments of a run that is as long on it.

    What happens once in an epoch of all images happens after as many steps.

    Args:
        work: The workload.
        args: The training arguments of a run on all of its images.
    """
    if not work.unlabelled or not isinstance(work.train, Dataset):
        return work, args
    steps = _steps_of_epoch(len(work.train), args)
    changes: dict[str, Any] = {}
    if args.max_steps <= 0:
        changes["max_steps"] = math.ceil(args.num_train_epochs * steps)
    for kind, interval in (("eval", "eval_steps"), ("save", "save_steps"), ("logging", "logging_steps")):
        if getattr(args, f"{kind}_strategy") == IntervalStrategy.EPOCH:
            changes |= {f"{kind}_strategy": "steps", interval: steps}
    labelled = work.train.take(len(work.train) - work.unlabelled)
    return replace(work, train=labelled, unlabelled=0), replace(args, **changes)


def _steps_of_epoch(rows: int, args: DistillationArguments) -> int:
    """Return how many steps an epoch of so many rows has."""
    whole = rows / (args.train_batch_size * args.world_size)
    batches = math.floor(whole) if args.dataloader_drop_last else math.ceil(whole)
    steps: int = math.ceil(batches / args.gradient_accumulation_steps)
    return max(1, steps)
