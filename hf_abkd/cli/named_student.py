"""The student that flags name: one that is stored or made by a factory, or one that is made from the teacher."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import nn
from transformers import PreTrainedModel

from hf_abkd.cli.output import write_line
from hf_abkd.models.arguments import ModelArguments
from hf_abkd.models.expected_images import channels_of
from hf_abkd.models.factories import is_factory
from hf_abkd.models.hub_options import HubOptions
from hf_abkd.models.smaller.config import smaller
from hf_abkd.models.smaller.factors import Factors
from hf_abkd.models.smaller.from_teacher import made_from
from hf_abkd.models.student import load_student, student_channels
from hf_abkd.models.teacher import teacher_config
from hf_abkd.teachers.cache.finding import is_hub_cache, is_local_cache


@dataclass(frozen=True)
class NamedStudent:
    """A student that flags name.

    Args:
        make: Makes it afresh, from the class names of the data and the teacher.
        num_channels: How many channels its images have; None if only the teacher tells.
        processor_name: Whose image processor is its own.
        hub: How that is fetched.
        start: What it counts as where settings are chosen for it: "random" or "trained", or "auto" for what its tensors
            tell.
    """

    make: Callable[[Sequence[str], object], PreTrainedModel]
    num_channels: int | None
    processor_name: str
    hub: HubOptions
    start: str = "auto"


def named_student(models: ModelArguments) -> NamedStudent:
    """Return the student that flags name, of which no more than the config was read.

    Raises:
        ValueError: If there is none, its config is none of an image classifier, or it cannot be made from the teacher.
        FileNotFoundError: If a name looks like a path that does not exist.
        OSError: If the Hub cannot deliver a config.
    """
    factors = models.student_factors
    if factors is not None:
        return _from_teacher(models, factors)
    name, hub = models.student_name_or_path, models.hub(models.student_revision)
    if name is None:
        raise ValueError(
            "--student_name_or_path is missing: a model on the Hub, a local folder, or a config for random weights; "
            "or --student_from_teacher depth=0.5,width=0.5 makes a smaller one of the teacher"
        )

    def make(labels: Sequence[str], _: object) -> PreTrainedModel:
        return load_student(
            name, labels=labels, ignore_mismatched_sizes=models.ignore_mismatched_sizes, **hub.for_models()
        )

    return NamedStudent(make, student_channels(name, hub), name, hub)


def _from_teacher(models: ModelArguments, factors: Factors) -> NamedStudent:
    """Return a student that is made from the teacher; what its config tells against that is told now."""
    name, hub = models.teacher_name_or_path, models.hub(models.teacher_revision)
    flag = f"--student_from_teacher {models.student_from_teacher}"
    if name is None:
        raise ValueError(f"{flag} makes the student of a teacher: name it, --teacher_name_or_path")
    if is_local_cache(name):
        raise ValueError(_no_weights(flag, name))
    num_channels = None
    # A factory is called once, for its model.
    if not is_factory(name):
        try:
            config = teacher_config(name, hub)
        except OSError as error:
            if is_hub_cache(name, **hub.for_files()):
                raise ValueError(_no_weights(flag, name)) from error
            raise
        try:
            smaller(config, factors)
        except ValueError as error:
            raise ValueError(f"{flag}, teacher {name!r}: {error}") from error
        num_channels = channels_of(config) or 3
    processor = models.teacher_image_processor_name
    # Over fewer channels all sums are other ones, and what was learnt is gone until it is learnt again.
    start = "random" if factors.width < 1 else "auto"
    return NamedStudent(
        _Maker(factors), num_channels, processor or name, models.hub() if processor else hub, start=start
    )


def _no_weights(flag: str, name: str) -> str:
    return (
        f"{flag}: {name!r} is a cache of what a teacher said, without the teacher's weights. Make the student of the "
        "teacher itself once, student_from_teacher(load_teacher(TEACHER, labels=None), ...).save_pretrained(FOLDER) in "
        "Python, and train with --student_name_or_path FOLDER and the cache"
    )


@dataclass
class _Maker:
    """Makes students from a teacher, and tells of the first one what it was made of; one process speaks for all."""

    factors: Factors
    told: bool = field(default=False, init=False)

    def __call__(self, labels: Sequence[str], teacher: object) -> PreTrainedModel:
        if not isinstance(teacher, nn.Module):
            raise TypeError(f"a student is made from a model, got {type(teacher).__name__}")
        student, text = made_from(teacher, self.factors, labels)
        if not self.told and os.environ.get("RANK", "0") == "0":
            write_line(text)
        self.told = True
        return student
