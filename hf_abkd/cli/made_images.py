"""Images that are made out of a teacher before a student learns from it, in the place of real ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_abkd.data.arguments import DataArguments
from hf_abkd.methods import synthesize
from hf_abkd.models.arguments import ModelArguments
from hf_abkd.models.processors import load_processor
from hf_abkd.models.teacher import load_teacher
from hf_abkd.stages.arguments import DistillationArguments

#: Where they are kept in the output folder of a run.
FOLDER = "synthesized"


def with_made_images(
    data: DataArguments, models: ModelArguments, synthesis: Mapping[str, Any], args: DistillationArguments
) -> DataArguments:
    """Make images out of the teacher, unless they are there, and return the data with them as the training images.

    Args:
        data: What else is known of the data: images to evaluate on. Without any, nothing is evaluated: a share of what
            the teacher made says nothing of what the student does on images.
        models: Names the teacher.
        synthesis: Arguments of `synthesize`.
        args: The training arguments: the output folder, in which the images lie, and the device.

    Raises:
        ValueError: If other training images are named, too, or there is no teacher.
    """
    named = [name for name in ("dataset_name", "train_files", "train_dir") if getattr(data, name)]
    if named:
        raise ValueError(f"data.synthesize makes the training images, and data.{named[0]} names others: leave one out")
    if models.teacher_name_or_path is None:
        raise ValueError("data.synthesize makes images out of a teacher: name it, as teacher.model=...")
    folder = Path(args.output_dir) / FOLDER
    hub = models.hub(models.teacher_revision)
    # The other processes then find them complete.
    with args.main_process_first(local=False, desc="synthesize"):
        teacher = load_teacher(models.teacher_name_or_path, labels=None, **hub.for_models()).to(args.device)
        own = models.teacher_image_processor_name
        processor = load_processor(own or models.teacher_name_or_path, **(models.hub() if own else hub).for_models())
        synthesize(teacher, processor, folder, show_progress=not args.disable_tqdm, **synthesis)
    given = bool(data.validation_files or data.validation_dir)
    return replace(data, dataset_name=str(folder), train_val_split=data.train_val_split if given else 0.0)
