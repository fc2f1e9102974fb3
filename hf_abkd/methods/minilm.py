"""MiniLM: the self-attention of one block of a transformer, learnt from one of a larger transformer.

What the papers are, and what differs from them, is told at `minilm` and at its two objectives.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import nn

from hf_abkd.layers.transformer_parts import SelfAttention, self_attentions
from hf_abkd.methods.beside_layers import beside_layers
from hf_abkd.objectives import DeepSelfAttentionDistillation, SelfAttentionRelationDistillation
from hf_abkd.objectives.objective import Objective
from hf_abkd.stages.schedules import Schedule
from hf_abkd.stages.stage import Stage
from hf_abkd.stages.term import Term

# The relation heads of the paper for teachers of the base size.
_RELATION_HEADS = 48


def minilm(
    student: nn.Module,
    teacher: nn.Module,
    *,
    version: Literal[1, 2] = 2,
    relation_heads: int | None = None,
    student_block: int = -1,
    teacher_block: int = -1,
    weight: float | Schedule = 1.0,
    logits_weight: float | Schedule = 0.0,
    label_weight: float | Schedule = 1.0,
    temperature: float = 4.0,
) -> list[Stage]:
    """Return one stage in which the student learns the self-attention of one block of the teacher, beside the labels.

    Two transformers on equal grids of patches are needed; heads, widths and numbers of blocks may differ with version
    2. A CNN has no self-attention, and that of a Swin is within windows: both are refused, with what to take instead.

    Paper: Wang et al., NeurIPS 2020, https://huggingface.co/papers/2002.10957 (version 1), and Wang et al., Findings of
        ACL 2021, https://huggingface.co/papers/2012.15828 (version 2)
    Differs: they distil language models without labels, and fine-tune the student afterwards. With `label_weight=0` and
        a stage of `knowledge_distillation` behind this one it is so here; the default trains by both at once.

    Args:
        student: The student; only names and sizes of its layers are read.
        teacher: Likewise the teacher.
        version: 1 for attention and value relations of equally many heads, 2 for relations of queries, keys and values.
        relation_heads: Into how many heads version 2 cuts queries, keys and values. None takes 48, as the paper for
            teachers of the base size, and where that does not divide the widths of both the largest number that does.
        student_block: The block of the student, from 0, or from -1 at its end. Both papers take the last.
        teacher_block: Likewise the block of the teacher. Version 2 takes an upper middle one of large teachers.
        weight: The weight of the objective.
        logits_weight: The weight of knowledge distillation; 0 compares no logits.
        label_weight: The weight of the cross-entropy with the labels; 0 trains without labels, and leaves what is
            behind the block as it is.
        temperature: What the logits are divided by for `logits_weight`.

    Raises:
        ValueError: If there is no such version or block, a model has no self-attention that can be compared, or heads
            do not fit.

    Example:
        >>> from transformers import ViTConfig, ViTForImageClassification
        >>> from hf_abkd import minilm
        >>> config = ViTConfig(hidden_size=96, num_hidden_layers=1, num_attention_heads=3, intermediate_size=96)
        >>> vit = ViTForImageClassification(config)
        >>> [stage] = minilm(vit, vit)
        >>> stage.terms[0].objective, stage.terms[0].student[0]
        (SelfAttentionRelationDistillation(relation_heads=48), 'vit.layers.0.attention.q_proj')
    """
    if version not in (1, 2):
        raise ValueError(f"version must be 1 or 2, got {version!r}")
    ours = _block_of("student", student, student_block, plain=version == 1)
    theirs = _block_of("teacher", teacher, teacher_block, plain=version == 1)
    if version == 1:
        if relation_heads is not None:
            raise ValueError(f"relation_heads={relation_heads!r} is of version 2; version 1 has the models' own heads")
        objective: Objective = DeepSelfAttentionDistillation(heads=_equal_heads(ours, theirs))
    else:
        objective = SelfAttentionRelationDistillation(relation_heads=_relation_heads(ours, theirs, relation_heads))
    term = Term(objective, student=ours.projections, teacher=theirs.projections, weight=weight)
    return [Stage(terms=[term, *beside_layers(label_weight, logits_weight, temperature)], name="self-attention")]


def _block_of(role: str, model: nn.Module, number: int, plain: bool) -> SelfAttention:
    """Return the self-attention of a block, counted from 0, or from -1 at the end of the model.

    Raises:
        ValueError: If the model has no self-attention that can be compared, or no such block.
    """
    attentions = self_attentions(model, of=role, plain=plain)
    if not -len(attentions) <= number < len(attentions):
        raise ValueError(f"{role}_block must be in [{-len(attentions)}, {len(attentions) - 1}], got {number}")
    return attentions[number]


def _equal_heads(ours: SelfAttention, theirs: SelfAttention) -> int:
    """Return how many heads both blocks have.

    Raises:
        ValueError: If they have other numbers.
    """
    if ours.heads != theirs.heads:
        raise ValueError(
            f"version 1 compares attention head by head, and the student has {ours.heads} heads, the teacher "
            f"{theirs.heads}; version=2 needs no equal heads"
        )
    return ours.heads


def _relation_heads(ours: SelfAttention, theirs: SelfAttention, given: int | None) -> int:
    """Return the relation heads: those that were given, 48, or the largest number below that fits both."""
    common = math.gcd(ours.width, theirs.width)
    possible = [number for number in range(1, common + 1) if common % number == 0]
    if given is None:
        return max(number for number in possible if number <= _RELATION_HEADS)
    if given not in possible:
        raise ValueError(
            f"relation_heads must divide the widths of both models, {ours.width} and {theirs.width}: one of "
            f"{possible}, got {given!r}"
        )
    return given
