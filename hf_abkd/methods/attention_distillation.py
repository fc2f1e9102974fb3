"""Attention distillation: the class token of the student looks where that of the teacher looks (AttnDistill).

What the paper is, and what differs from it, is told at `attention_distillation` and at `AttentionDistillation`.
"""

from __future__ import annotations

from torch import nn

from hf_abkd.layers.transformer_parts import self_attentions
from hf_abkd.methods.beside_layers import beside_layers
from hf_abkd.objectives import AttentionDistillation
from hf_abkd.stages.schedules import Schedule
from hf_abkd.stages.stage import Stage
from hf_abkd.stages.term import Term


def attention_distillation(
    student: nn.Module,
    teacher: nn.Module,
    *,
    weight: float | Schedule = 0.1,
    head_temperature: float = 10.0,
    logits_weight: float | Schedule = 0.0,
    label_weight: float | Schedule = 1.0,
    temperature: float = 4.0,
) -> list[Stage]:
    """Return one stage in which the last block of the student learns the teacher's attention, beside the labels.

    Two transformers with a class token are needed; grids, heads, widths and numbers of blocks may differ. A CNN has no
    self-attention, a Swin no class token, and attention with a bias for positions or rotated queries cannot be told
    from queries and keys: all are refused, with what to take instead.

    Paper: Wang et al., BMVC 2022, https://huggingface.co/papers/2210.00944
    Differs: there a student learns without labels, and the squared distance of the two class tokens, behind a
        projector, stands beside this with the weight 1. With `label_weight=0` and a term of `Hint()` on what the
        classifiers read it is so here; the default is for classifiers.

    Args:
        student: The student; only names and sizes of its layers are read.
        teacher: Likewise the teacher.
        weight: The weight of the objective.
        head_temperature: What the sum over heads is divided by where the two models have other numbers of heads.
        logits_weight: The weight of knowledge distillation; 0 compares no logits.
        label_weight: The weight of the cross-entropy with the labels; 0 trains without labels.
        temperature: What the logits are divided by for `logits_weight`.

    Raises:
        ValueError: If the attention of a model cannot be compared.

    Example:
        >>> from transformers import ViTConfig, ViTForImageClassification
        >>> from hf_abkd import attention_distillation
        >>> config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
        >>> vit = ViTForImageClassification(config)
        >>> attention_distillation(vit, vit)[0].terms[0].objective
        AttentionDistillation(heads=2, teacher_heads=2, temperature=10.0)
    """
    ours, theirs = (
        self_attentions(model, of=role, plain=True)[-1] for role, model in (("student", student), ("teacher", teacher))
    )
    objective = AttentionDistillation(heads=ours.heads, teacher_heads=theirs.heads, temperature=head_temperature)
    term = Term(objective, student=ours.projections[:2], teacher=theirs.projections[:2], weight=weight)
    return [Stage(terms=[term, *beside_layers(label_weight, logits_weight, temperature)], name="attention")]
