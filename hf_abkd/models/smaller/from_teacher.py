"""A student that is made from its teacher: a smaller model of its family that starts from its weights."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_abkd.models.adapters import has_adapters
from hf_abkd.models.label_spaces import match_labels
from hf_abkd.models.smaller.config import Smaller, smaller
from hf_abkd.models.smaller.copying import copy_weights
from hf_abkd.models.smaller.factors import Factors
from hf_abkd.models.tasks.image_classification import IMAGE_CLASSIFICATION
from hf_abkd.models.usable import check_usable
from hf_abkd.wording import listed

logger = logging.getLogger(__name__)


def student_from_teacher(
    teacher: nn.Module, *, depth: float = 1.0, width: float = 1.0, labels: Sequence[str] | None = None
) -> PreTrainedModel:
    """Return a student made of some of its teacher's blocks and channels, in float32 and training mode.

    It is a smaller model of the same family, whose tensors are the teacher's: of the blocks that are kept, the first
    and the last ones and others evenly between them, and of each tensor the channels that are kept, which are the same
    ones in all layers that read each other. With `depth=1` and `width=1` it is a copy of the teacher. A narrower one
    does best with the settings of random weights: `DistillationArguments(student_start="random")`.

    Args:
        teacher: A trained classifier of transformers, of a family that is known; its config says of which.
        depth: Share of the blocks of each stage, above 0 and at most 1. A half is rounded up, and one block is kept.
        width: Share of the channels, above 0 and at most 1; of a transformer whole heads.
        labels: Class names of the data in label order. A head is made of the teacher's rows for the classes of these
            names, and is new and random if the teacher lacks one. None keeps the teacher's classes.

    Raises:
        TypeError: If the teacher is no `PreTrainedModel`, or a factor no number.
        ValueError: If a factor is out of range or leaves nothing out, or the teacher's family is not known, or it is
            quantised or has adapters.

    Example:
        >>> from transformers import ViTConfig, ViTForImageClassification
        >>> sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 4}
        >>> teacher = ViTForImageClassification(ViTConfig(image_size=16, patch_size=8, **sizes))
        >>> student = student_from_teacher(teacher, depth=0.5, width=0.5)
        >>> student.config.num_hidden_layers, student.config.hidden_size, student.config.intermediate_size
        (2, 8, 16)
    """
    student, told = made_from(teacher, Factors(depth, width), labels)
    logger.info("%s", told)
    return student


def made_from(teacher: nn.Module, factors: Factors, labels: Sequence[str] | None = None) -> tuple[PreTrainedModel, str]:
    """Return a student, and a line that tells what it was made of; see `student_from_teacher`."""
    if not isinstance(teacher, PreTrainedModel):
        check_usable(teacher, "teacher")
        raise TypeError(
            f"a student is made from a transformers.PreTrainedModel, whose config tells its family; the teacher is a "
            f"{type(teacher).__name__}"
        )
    what = smaller(teacher.config, factors)
    _check_weights(teacher)
    classes: Sequence[int] | None = range(IMAGE_CLASSIFICATION.classes(teacher.config))
    if labels is not None:
        classes = _classes_of(teacher, labels)
        IMAGE_CLASSIFICATION.name_classes(what.config, labels)
    # Not by the Auto class: DeiT and LeViT have two, and the teacher's may be of the user's own.
    student: PreTrainedModel = type(teacher)._from_config(
        what.config, dtype=torch.float32, attn_implementation=teacher.config._attn_implementation
    )
    new = copy_weights(student, teacher, what, classes)
    return student.train(), _told(student, what, new)


def _check_weights(teacher: PreTrainedModel) -> None:
    check_usable(teacher, "teacher")
    if has_adapters(teacher):
        raise ValueError(
            "no student can be made from a teacher with adapters: merge them into its weights first "
            "(`merge_and_unload()`)"
        )
    whole = [
        name
        for name, value in teacher.state_dict().items()
        if not isinstance(value, Tensor) or value.is_quantized or not _is_plain(name, value)
    ]
    if whole:
        raise ValueError(
            f"no student can be made from a quantised teacher ({listed(whole)}), whose weights cannot be trained. Pass "
            "the teacher from before it was quantised"
        )


def _is_plain(name: str, value: Tensor) -> bool:
    return value.is_floating_point() or name.endswith("num_batches_tracked")


def _classes_of(teacher: PreTrainedModel, labels: Sequence[str]) -> list[int] | None:
    """Return the teacher's numbers of the classes of the data; None if it lacks one of them."""
    theirs = IMAGE_CLASSIFICATION.classes(teacher.config)
    match = match_labels(dict(enumerate(labels)), teacher.config.id2label, len(labels), theirs)
    return list(match.teacher_classes) if len(match.teacher_classes) == len(labels) else None


def _told(student: PreTrainedModel, what: Smaller, new: Sequence[str]) -> str:
    """Return what a student was made of, in a line."""
    changes = ", ".join(f"{name} {before} -> {after}" for name, before, after in what.changes) or "nothing left out"
    state = student.state_dict()
    held = sum(tensor.numel() for tensor in state.values())
    copied = held - sum(state[name].numel() for name in new)
    head = f"; new and random, as its classes are not the teacher's: {listed(new)}" if new else ""
    return (
        f"the student is made from the teacher: {changes}; {len(state) - len(new)} of its {len(state)} tensors "
        f"({100 * copied / held:.1f} % of its {held:,} numbers) are copied{head}"
    )
