"""Hidden state distillation: blocks of a student learn the hidden states of evenly spaced blocks of the teacher.

What the papers are, and what differs from them, is told at `hidden_state_distillation` and at `HiddenStates`.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from hf_abkd.layers.transformer_parts import blocks
from hf_abkd.methods.beside_layers import beside_layers
from hf_abkd.objectives import HiddenStates
from hf_abkd.stages.schedules import Schedule
from hf_abkd.stages.stage import Stage
from hf_abkd.stages.term import Term

COMPARED = ("all", "last")


def hidden_state_distillation(
    student: nn.Module,
    teacher: nn.Module,
    *,
    distance: Literal["squared", "cosine"] = "squared",
    compared: Literal["all", "last"] = "all",
    weight: float | Schedule = 1.0,
    logits_weight: float | Schedule = 0.0,
    label_weight: float | Schedule = 1.0,
    temperature: float = 4.0,
) -> list[Stage]:
    """Return one stage in which blocks of the student learn hidden states of the teacher, beside the labels.

    Block m of M of the student learns from block m * N / M of the N of the teacher, rounded up: evenly spaced ones, the
    last from the last. With `distance="cosine", compared="last"` it is the part of DistilBERT on hidden states. Models
    may have stages instead, as a Swin or a CNN, of which the last blocks are compared, on the teacher's grids.

    Paper: Jiao et al., Findings of EMNLP 2020, https://huggingface.co/papers/1909.10351 (TinyBERT), and Sanh et al.,
        2019, https://huggingface.co/papers/1910.01108 (DistilBERT)
    Differs: both distil language models. TinyBERT also compares embeddings and the scores of attention, and trains by
        the logits in a stage of its own; DistilBERT weighs the cosine by 1 beside 5 for the logits.

    Args:
        student: The student; only names of its layers are read.
        teacher: Likewise the teacher.
        distance: "squared" or "cosine"; see `HiddenStates`.
        compared: Whether "all" blocks of the student are compared, or the "last" alone.
        weight: The weight of each block.
        logits_weight: The weight of knowledge distillation; 0 compares no logits.
        label_weight: The weight of the cross-entropy with the labels; 0 trains without labels.
        temperature: What the logits are divided by for `logits_weight`.

    Raises:
        ValueError: If a model has no blocks, the student has more than the teacher, or a setting is not possible.

    Example:
        >>> from transformers import ViTConfig, ViTForImageClassification
        >>> from hf_abkd import hidden_state_distillation
        >>> sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
        >>> small, large = (ViTForImageClassification(ViTConfig(num_hidden_layers=n, **sizes)) for n in (2, 6))
        >>> [term.teacher for term in hidden_state_distillation(small, large)[0].terms[:2]]
        ['vit.layers.2', 'vit.layers.5']
    """
    if compared not in COMPARED:
        raise ValueError(f"compared must be one of {list(COMPARED)}, got {compared!r}")
    ours, theirs = blocks(student), blocks(teacher)
    if len(ours) > len(theirs) and compared == "all":
        raise ValueError(
            f"the student has {len(ours)} blocks and the teacher {len(theirs)}, and each block of the student learns "
            "from one of its own; ask for compared='last', or write terms with HiddenStates out"
        )
    # Rounded up, in whole numbers.
    places = [-(-number * len(theirs) // len(ours)) for number in range(1, len(ours) + 1)]
    pairs = list(zip(ours, [theirs[min(place, len(theirs)) - 1] for place in places], strict=True))
    terms = [
        Term(HiddenStates(distance=distance), student=one, teacher=other, weight=weight)
        for one, other in (pairs if compared == "all" else [(ours[-1], theirs[-1])])
    ]
    return [Stage(terms=[*terms, *beside_layers(label_weight, logits_weight, temperature)], name="hidden states")]
