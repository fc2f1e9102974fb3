"""What a run is made of beside models and stages: its images, their views, its seed, its batches and its settings."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
from transformers import BaseImageProcessor
from transformers.trainer_utils import has_length

from hf_abkd.data.augment import Augmentation
from hf_abkd.stages.arguments import DistillationArguments
from hf_abkd.training.publishing.run_facts import settings
from hf_abkd.training.teacher_answers import Reader

#: How many rows of a training set stand for all of them.
LOOKED_AT = 8

logger = logging.getLogger(__name__)


def make_up(
    args: DistillationArguments,
    dataset: Any,
    read: Reader,
    views: tuple[Augmentation | None, int],
    processor: object,
) -> dict[str, Any]:
    """Return what a checkpoint holds of this, as JSON does: `fixed` makes the run, `settings` may be changed.

    Args:
        args: The training arguments of the run.
        dataset: The training set. Some of its images stand for all, the same ones whenever the run is begun or
            resumed; none of a set that is no `datasets.Dataset`, as it may change while the run goes on.
        read: Reads some rows of it.
        views: What changes the images, and the seed of that.
        processor: The image processor of the student, or None.
    """
    rows, places = _looked_at(dataset)
    batch = read(dataset, places) if places else None
    told = settings(args)
    fixed = {
        "images of the training set": rows,
        "ids of its images": None if batch is None or batch.samples is None else batch.samples.tolist(),
        "labels of its images": None if batch is None or batch.labels is None else batch.labels.tolist(),
        "augmentation": _name(views[0]),
        "augmentation_seed": views[1],
        "augmentation_views": args.augmentation_views,
        "image processor": _digest(processor),
        "seed": told.pop("seed"),
        "gradient_accumulation_steps": args.gradient_accumulation_steps,
        "total_train_batch_size": told.pop("total_train_batch_size"),
    }
    return {"fixed": fixed, "settings": told}


def _looked_at(dataset: Any) -> tuple[int | None, list[int]]:
    """Return how many rows a training set has, None of a stream, and which of them stand for all."""
    rows = len(dataset) if has_length(dataset) else None
    if not rows or not isinstance(dataset, datasets.Dataset):
        return rows, []
    return rows, sorted({(rows - 1) * place // (LOOKED_AT - 1) for place in range(LOOKED_AT)})


def check_make_up(
    there: Mapping[str, Any] | None, here: Mapping[str, Any], checkpoint: Path, args: DistillationArguments
) -> None:
    """Refuse to go on with another run than that of a checkpoint, and tell of other settings.

    Args:
        there: The make-up of the run of the checkpoint; None of one that an earlier version wrote.
        here: That of this run.
        checkpoint: The folder of the checkpoint.
        args: The training arguments. With `ignore_data_skip` a run may go on with other images.

    Raises:
        ValueError: If it is another run.
    """
    if there is None:
        logger.warning(
            "%s was written by an earlier version: whether images, augmentation, seed and batches are those of its run "
            "is not known",
            checkpoint,
        )
        return
    batches = ("gradient_accumulation_steps", "total_train_batch_size")
    left_out = batches if args.auto_find_batch_size else ()
    other = {name: told for name, told in _other(there["fixed"], here["fixed"]).items() if name not in left_out}
    if other and not args.ignore_data_skip:
        raise ValueError(
            f"{checkpoint} is of another run: {'; '.join(other.values())}. Give what that run was given, or another "
            "output_dir; ignore_data_skip=True (--ignore_data_skip) goes on all the same, and begins its epoch anew."
        )
    changed = {**other, **_other(there["settings"], here["settings"])}
    if changed:
        logger.warning(
            "the run of %s goes on otherwise than it began: %s (optimiser and schedule are read from the checkpoint, "
            "with their learning rate)",
            checkpoint,
            "; ".join(changed.values()),
        )


def _other(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, str]:
    """Return what differs, by name, as text."""
    names = [name for name in here if name in there and there[name] != here[name]]
    return {name: f"{name} {_short(there[name])} there, {_short(here[name])} here" for name in names}


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _name(augmentation: Augmentation | None) -> str:
    """Return what tells an augmentation from others as far as it tells; an address in memory tells nothing."""
    if augmentation is None:
        return "none"
    name = getattr(augmentation, "__name__", None) or repr(augmentation)
    return type(augmentation).__name__ if " at 0x" in name else name


def _digest(processor: object) -> str | None:
    if not isinstance(processor, BaseImageProcessor):
        return None
    return hashlib.sha256(processor.to_json_string().encode()).hexdigest()[:16]
