"""The recipe of a run that flags describe: what it was, to be kept beside its results and run again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from hf_abkd.data.arguments import DataArguments
from hf_abkd.data.augment import Augmentation
from hf_abkd.models.arguments import ModelArguments
from hf_abkd.recipes.recipe import Recipe
from hf_abkd.recipes.training_part import SAID_BY_THE_USER, training_part
from hf_abkd.stages.arguments import DistillationArguments
from hf_abkd.stages.stage import Stage


def recipe_of_flags(
    stages: Sequence[Stage] | None,
    models: ModelArguments,
    data: DataArguments,
    training: Mapping[str, Any],
    augmentation: Augmentation | None,
) -> Recipe:
    """Return the recipe of a run: its stages written out, so that later defaults do not change it.

    Args:
        stages: What the student is trained by.
        models: Which models.
        data: Which images.
        training: The training arguments, as `training_section` returned them.
        augmentation: What changes the images of each batch.
    """
    teacher = {
        "model": models.teacher_name_or_path,
        "revision": models.teacher_revision,
        "image_processor": models.teacher_image_processor_name,
        "dtype": None if models.teacher_dtype == "float32" else models.teacher_dtype,
        "device_map": models.teacher_weights.device_map,
        "bits": models.teacher_bits,
    }
    factors = models.student_factors
    student = {
        "from_teacher": None if factors is None else asdict(factors),
        "model": models.student_name_or_path,
        "revision": models.student_revision,
        "image_processor": models.image_processor_name,
        "ignore_mismatched_sizes": models.ignore_mismatched_sizes,
    }
    sections: dict[str, Any] = {"student": _given(student), "data": data, "training": training}
    if stages is not None or factors is not None:
        sections["teacher"] = _given(teacher)
    sections["augmentation"] = [] if augmentation is None else augmentation
    return Recipe.from_stages(stages, **sections)


def _given(section: dict[str, Any]) -> dict[str, Any]:
    """Return a section without what is as always."""
    return {name: value for name, value in section.items() if value not in (None, False, "main")}


def training_section(args: DistillationArguments) -> dict[str, Any]:
    """Return the training arguments that are not as by default, of those that a file may say.

    To be called before a trainer is made: other arguments are made for it, which takes the devices from a trainer.
    """
    usual = type(args)(output_dir=args.output_dir, use_cpu=args.use_cpu)
    names = set(training_part().model_fields) - SAID_BY_THE_USER
    kept = {name: getattr(args, name) for name in sorted(names) if getattr(args, name) != getattr(usual, name)}
    given = {"output_dir": args.output_dir, "seed": args.seed, **kept}
    return {**given, **({"use_cpu": True} if args.use_cpu else {})}
