"""One for all: exits of a student at several depths learn labels and teacher, whatever the two architectures are.

What the paper is, and what differs from it, is told at `one_for_all` and at `AdaptiveTargetEnhancement`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from hf_abkd.layers.transformer_parts import blocks
from hf_abkd.models.outputs import LOGITS
from hf_abkd.objectives import AdaptiveTargetEnhancement
from hf_abkd.stages.schedules import Schedule
from hf_abkd.stages.stage import Stage
from hf_abkd.stages.term import Term

_STAGES = 4


def one_for_all(
    student: nn.Module,
    layers: Sequence[str] | None = None,
    *,
    gamma: float = 1.0,
    weight: float | Schedule = 1.0,
    exit_weight: float | Schedule = 1.0,
) -> list[Stage]:
    """Return one stage in which the student's logits, and exits of four of its layers, learn labels and teacher.

    A CNN may learn from a transformer, a transformer from a CNN, any student from any teacher of the same classes: of
    the teacher the logits alone are compared. The exits train with the student and are no part of what is exported.

    Paper: Hao et al., NeurIPS 2023, https://huggingface.co/papers/2310.19444
    Differs: the authors name the layers of each architecture; here they are the ends of its stages where it has at most
        four, and of a model of blocks alone those after a sixth, a third, five sixths and all of them, which of 12
        blocks are theirs. The temperature is 1, as in their settings. What differs in the exits, and in the loss of the
        public code, is told at `AdaptiveTargetEnhancement`.

    Args:
        student: The student; only names of its layers are read.
        layers: The layers that exits read, from the first to the last. None takes those above.
        gamma: How much more the label counts where the teacher is sure of it; 1.5 in the paper for a transformer that
            teaches a ResNet-18 on ImageNet.
        weight: The weight of the loss on the student's logits.
        exit_weight: The weight of each exit.

    Raises:
        ValueError: If no layer is named, or the student has no blocks.

    Example:
        >>> from transformers import ResNetConfig, ResNetForImageClassification
        >>> from hf_abkd import one_for_all
        >>> resnet = ResNetForImageClassification(ResNetConfig(hidden_sizes=[8, 16], depths=[1, 1], embedding_size=8))
        >>> [stage] = one_for_all(resnet)
        >>> [(term.student, term.objective.exit_blocks) for term in stage.terms]
        [('logits', 1), ('resnet.encoder.stages.0', 1), ('resnet.encoder.stages.1', 0)]
    """
    named = _ends_of_stages(student) if layers is None else list(layers)
    if isinstance(layers, str) or not named:
        raise ValueError(f"layers must be a list of names of layers, from the first to the last; got {layers!r}")
    exits = [
        Term(
            AdaptiveTargetEnhancement(gamma=gamma, exit_blocks=len(named) - number),
            student=name,
            teacher=LOGITS,
            weight=exit_weight,
        )
        for number, name in enumerate(named, 1)
    ]
    return [Stage(terms=[Term(AdaptiveTargetEnhancement(gamma=gamma), weight=weight), *exits], name="one for all")]


def _ends_of_stages(student: nn.Module) -> list[str]:
    """Return the last block of each stage; of more than four blocks those at four depths."""
    names = blocks(student)
    if len(names) <= _STAGES:
        return names
    places = [(len(names) * sixths + 5) // 6 for sixths in (1, 2, 5, 6)]
    return [names[place - 1] for place in dict.fromkeys(places)]
