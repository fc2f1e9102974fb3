"""From the teacher that a user gives to what a run is taught by, and what the two are refused for."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import BaseImageProcessor, PreTrainedConfig

from hf_abkd.data.augment import Augmentation
from hf_abkd.data.preprocessing import Preprocessing, same_preprocessing
from hf_abkd.data.shared_images import SharedImages
from hf_abkd.models.expected_images import channels_of, check_same_channels
from hf_abkd.models.kept_state import random_state_kept
from hf_abkd.models.placement import is_dispatched, is_quantized, is_sharded, put_on
from hf_abkd.models.tasks.task import Task
from hf_abkd.stages.arguments import DistillationArguments
from hf_abkd.stages.extension import refuse_unextendable
from hf_abkd.stages.stage import Stage, frozen_parts
from hf_abkd.teachers.cache.teacher_cache import TeacherCache
from hf_abkd.teachers.cached_source import CachedSource
from hf_abkd.teachers.live import LiveTeacher
from hf_abkd.teachers.live_source import AdaptingSource, LiveSource
from hf_abkd.teachers.mean_source import MeanSource, MeanTeacher
from hf_abkd.teachers.route.follower import RouteFollower
from hf_abkd.teachers.route_source import RouteSource
from hf_abkd.teachers.source import NoTeacher, TeacherSource
from hf_abkd.teachers.speed.fast_copy import SpeedUps
from hf_abkd.training.terms.joint_distiller import refuse_unadaptable
from hf_abkd.training.wiring.wiring import check_names

logger = logging.getLogger(__name__)

Context = Callable[[], AbstractContextManager[Any]]


#: What a user may give as a teacher.
GivenTeacher = nn.Module | TeacherCache | MeanTeacher | str | Path | None


def teacher_source(
    teacher: GivenTeacher,
    stages: Sequence[Stage],
    student: nn.Module,
    arguments: Callable[[], DistillationArguments],
    autocast: Context,
    task: Task,
) -> TeacherSource:
    """Return what a run is taught by.

    Args:
        teacher: A model, what one said of the training set, the folder or Hub id of that, or the settings of a mean of
            the student; None for no teacher.
        stages: The stages of the run.
        student: The student.
        arguments: Returns the training arguments, as they are now.
        autocast: Makes the context in which the student computes.
        task: What the models do.

    Raises:
        FileNotFoundError: If there is no such cache, or no such weights along a route.
        TypeError: If the teacher is compiled already, or no model.
        ValueError: If it shares parameters with the student, takes images of other channels, or a stage has a route
            that it cannot take.
    """
    args = arguments()
    if not isinstance(teacher, (nn.Module, TeacherCache, MeanTeacher, str, Path, type(None))):
        raise TypeError(
            "the teacher must be a torch.nn.Module, a TeacherCache, the folder or Hub id of one, or a MeanTeacher; got "
            f"{type(teacher).__name__}"
        )
    if isinstance(teacher, MeanTeacher):
        refuse_no_mean(stages)
        copied = copy.deepcopy(student).to(args.device)
        return MeanSource(teacher, LiveTeacher(copied, _precision(arguments, autocast), task))
    if isinstance(teacher, (str, Path)):
        teacher = TeacherCache.load(teacher, token=args.hub_token)
    theirs = teacher.channels if isinstance(teacher, TeacherCache) else channels_of(getattr(teacher, "config", None))
    check_same_channels(channels_of(getattr(student, "config", None)), theirs)
    live = None
    if isinstance(teacher, nn.Module):
        live = _live_teacher(teacher, student, _precision(arguments, autocast), task)
        refuse_unspeedable(teacher, args)
        put_on(teacher, args.device)
        for stage in stages:
            if stage.route is not None:
                refuse_fixed_weights(f"stage {stage.name!r} gives the teacher other weights (teacher=...)", teacher)
            if stage.teacher_terms:
                refuse_fixed_weights(f"stage {stage.name!r} trains the teacher", teacher)
            if stage.extension is not None and is_sharded(teacher):
                raise ValueError(
                    f"stage {stage.name!r} has {type(stage.extension).__name__}, for which each process asks the "
                    "teacher as often as its images need, and one that lies in parts in the processes has to be "
                    "asked by all together: load it as a whole"
                )
    cache = teacher if isinstance(teacher, TeacherCache) else None
    routes = [(stage.name, stage.route) for stage in stages]
    with random_state_kept():
        follower = RouteFollower.of(live, routes, cached=cache is not None)
    if cache is not None:
        return CachedSource(cache)
    if live is None:
        return NoTeacher()
    own_terms = [term for stage in stages for term in stage.teacher_terms]

    def speed_ups() -> SpeedUps:
        return _speed_ups(arguments())

    learns = any(term.wants_teacher for term in own_terms)
    source = AdaptingSource(live, speed_ups, is_taught=not learns) if own_terms else LiveSource(live, speed_ups)
    return source if follower is None else RouteSource(source, follower)


def refuse_unspeedable(teacher: nn.Module, args: DistillationArguments) -> None:
    """Check that a teacher can have the speed-ups that were asked for by name.

    Raises:
        ValueError: If it cannot.
    """
    what = f"the teacher {type(teacher).__name__}"
    if args.teacher_compile and (is_dispatched(teacher) or is_sharded(teacher)):
        how = "its weights are loaded layer by layer or lie in parts in the processes"
        raise ValueError(f"teacher_compile compiles a whole pass, and of {what} {how}: leave it out")
    if args.teacher_quantize and is_quantized(teacher):
        raise ValueError(f"{what} is quantised already: leave teacher_quantize out")


def refuse_fixed_weights(what: str, teacher: nn.Module) -> None:
    """Check that a teacher can be given other weights.

    Args:
        what: What gives them, the beginning of a sentence.
        teacher: The teacher.

    Raises:
        ValueError: If its weights are quantised, put away, or lie in parts in the processes.
    """
    kinds = {
        "quantised": is_quantized(teacher),
        "placed by a device_map, or put away": is_dispatched(teacher),
        "in parts in the processes": is_sharded(teacher),
    }
    if found := [kind for kind, is_so in kinds.items() if is_so]:
        raise ValueError(
            f"{what}, and the weights of {type(teacher).__name__} are {' and '.join(found)}: load it as a whole on one "
            "device"
        )


def refuse_no_mean(stages: Sequence[Stage]) -> None:
    """Check that no stage asks a mean of the student for what it is not.

    Raises:
        ValueError: If one gives it weights, trains it, or moves images to its boundaries.
    """
    for stage in stages:
        asked = {
            "gives it other weights (teacher=...)": stage.route is not None,
            "trains it (teacher_terms=...)": bool(stage.teacher_terms),
            "moves images to its boundaries (extension=...)": stage.extension is not None,
        }
        if wrong := [what for what, is_asked in asked.items() if is_asked]:
            raise ValueError(
                f"the teacher is a mean of the student, which only follows it, and stage {stage.name!r} "
                f"{' and '.join(wrong)}: leave that out, or pass a teacher of its own"
            )


def check_stages(
    stages: Sequence[Stage], student: nn.Module, source: TeacherSource, args: DistillationArguments
) -> None:
    """Check what stages ask of their models, and which parts of the student they freeze; needs no data.

    Raises:
        ValueError: If a name is wrong, or a stage needs a teacher of another kind.
    """
    teacher = source.model if source.cache is None else source.cache
    cached = source.cache is not None
    check_names(student, teacher, [term for stage in stages for term in stage.each_term()])
    for stage in stages:
        if stage.teacher_terms:
            domains = any(term.rows is not None or "domains" in term.objective.needs for term in stage.all_terms())
            refuse_unadaptable(stage.name, teacher, args=args, cached=cached, domains=domains)
        if stage.extension is not None:
            refuse_unextendable(stage.name, stage.extension, stage.each_term(), teacher, cached=cached)
        if source.model is not None:
            check_names(source.model, student, stage.teacher_terms)
        frozen_parts(student, stage.freeze)


def shared_images_of(
    source: TeacherSource,
    teacher_processor: BaseImageProcessor | None,
    processor: object,
    config: PreTrainedConfig,
) -> SharedImages | None:
    """Return the size and colours of each model's images; None if they are the same.

    Args:
        source: What teaches the student; a cached teacher brings its own processor.
        teacher_processor: The teacher's image processor, if it needs another one than the student.
        processor: The student's image processor, or None.
        config: The student's config.

    Raises:
        ValueError: If the student's processor is needed and missing, or the teacher can have none of its own.
    """
    if source.of_student and teacher_processor is not None:
        raise ValueError(
            "the teacher is made of the student and takes the student's images: leave teacher_processor out"
        )
    theirs = source.processor or teacher_processor
    if theirs is None:
        return None
    if not isinstance(processor, BaseImageProcessor):
        raise ValueError(
            "teacher_processor needs the student's image processor too, to bring the images from the one to the "
            f"other: pass processing_class=..., got {processor!r}"
        )
    channels = channels_of(config) or 3
    return SharedImages(Preprocessing.measured(processor, channels), Preprocessing.measured(theirs, channels))


def check_cached_run(
    cache: TeacherCache,
    teacher_processor: BaseImageProcessor | None,
    augmentation: Augmentation | None,
    args: DistillationArguments,
) -> None:
    """Check that a run shows its student what the cached teacher saw.

    Raises:
        ValueError: If the teacher's processor, the augmentation, or the seed or number of views differs.
    """
    if teacher_processor is not None and not same_preprocessing(teacher_processor, cache.processor, cache.channels):
        raise ValueError(
            f"teacher_processor prepares images otherwise than the one that {cache.table.folder} was written "
            "with; leave it out, a cached teacher brings its own"
        )
    cache.check_run(augmentation, args.augmentation_seed, args.augmentation_views)
    if args.eval_agreement:
        logger.info("agreement with the teacher is not measured: the teacher is a cache of the training set")


def _live_teacher(teacher: nn.Module, student: nn.Module, precision: Context, task: Task) -> LiveTeacher:
    students = {id(parameter) for parameter in student.parameters()}
    if any(id(parameter) in students for parameter in teacher.parameters()):
        raise ValueError(
            "teacher and student share parameters: training would move the teacher. Pass a deepcopy of it."
        )
    return LiveTeacher(teacher, precision, task)


def _precision(arguments: Callable[[], DistillationArguments], autocast: Context) -> Context:
    """Return what makes the context of the teacher's forward passes."""

    def context() -> AbstractContextManager[Any]:
        args = arguments()
        device, precision = args.device.type, args.teacher_precision
        if precision == "auto":
            return autocast()
        if precision == "fp32":
            return torch.autocast(device, enabled=False)
        return torch.autocast(device, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)

    return context


def _speed_ups(args: DistillationArguments) -> SpeedUps:
    return SpeedUps(
        args.teacher_fold_batch_norm,
        args.teacher_channels_last,
        args.teacher_in_place,
        args.teacher_compile,
        args.teacher_quantize,
    )
