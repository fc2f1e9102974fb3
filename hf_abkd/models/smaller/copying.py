"""The weights of a student that is made from a teacher: which of the teacher's tensors, and which part of them."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from hf_abkd.models.smaller.config import Smaller
from hf_abkd.models.smaller.family import Family


@torch.no_grad()
def copy_weights(
    student: PreTrainedModel, teacher: PreTrainedModel, what: Smaller, classes: Sequence[int] | None
) -> list[str]:
    """Fill a student with what its teacher has of it, statistics of normalisation included; return what stays new.

    Args:
        student: The student.
        teacher: The teacher, on whichever device and in whichever precision.
        what: What the student is to be.
        classes: Which of the teacher's classes are the student's; None leaves its head as it is.

    Raises:
        ValueError: If the teacher has no tensor of that name, or a smaller one: it is not what its model type says.
    """
    theirs = teacher.state_dict()
    new = []
    for name, tensor in student.state_dict().items():
        is_head = re.search(what.family.head, name) is not None
        if is_head and classes is None:
            new.append(name)
            continue
        source_name = name if what.family.depth is None else what.family.depth.renamed(name, what.kept)
        source = theirs.get(source_name)
        if source is None or source.ndim != tensor.ndim:
            raise ValueError(_unlike(teacher, source_name, "has no such tensor"))
        for dimension in range(tensor.ndim):
            if is_head and classes is not None and dimension == 0:
                places: Sequence[int] = classes
            else:
                sizes = source.shape[dimension], tensor.shape[dimension]
                places = _kept(what.family, name, dimension, *sizes, teacher.config, student.config)
            if len(places) != tensor.shape[dimension] or (len(places) and max(places) >= source.shape[dimension]):
                raise ValueError(_unlike(teacher, source_name, f"has it as {tuple(source.shape)}"))
            if list(places) != list(range(source.shape[dimension])):
                source = source.index_select(dimension, torch.tensor(places, device=source.device))
        tensor.copy_(source)
    return new


def _kept(
    family: Family,
    name: str,
    dimension: int,
    theirs: int,
    ours: int,
    teacher: PreTrainedConfig,
    student: PreTrainedConfig,
) -> Sequence[int]:
    """Return which channels of a tensor of the teacher's are kept."""
    for rule in family.channels:
        if rule.dimension == dimension and re.search(rule.names, name):
            return rule.kept(theirs, ours, teacher, student)
    return range(ours)


def _unlike(teacher: PreTrainedModel, name: str, has: str) -> str:
    return (
        f"no student can be made from the teacher {type(teacher).__name__}: of its model type "
        f"{teacher.config.model_type!r} a tensor {name!r} is expected, and it {has}. Write a config.json of a smaller "
        "model instead, and name it as the student"
    )
