"""ViTKD: the first blocks of a transformer learn the teacher's tokens, the last one what they are made from.

What the paper is, and what differs from it, is told at `vitkd` and at its two objectives.
"""

from __future__ import annotations

from torch import nn

from hf_abkd.layers.transformer_parts import blocks
from hf_abkd.methods.beside_layers import beside_layers
from hf_abkd.objectives import HiddenStates, MaskedTokenGeneration
from hf_abkd.stages.schedules import Schedule
from hf_abkd.stages.stage import Stage
from hf_abkd.stages.term import Term


def vitkd(
    student: nn.Module,
    teacher: nn.Module,
    *,
    shallow: int = 2,
    share: float = 0.5,
    shallow_weight: float | Schedule = 3e-5,
    deep_weight: float | Schedule = 3e-6,
    logits_weight: float | Schedule = 0.0,
    label_weight: float | Schedule = 1.0,
    temperature: float = 4.0,
) -> list[Stage]:
    """Return one stage in which the student mimics the teacher's first blocks and generates its last, beside labels.

    Two transformers of blocks are what the paper is about. Of other models, such as a Swin or a CNN, the ends of the
    first stages and of the last are compared, on the teacher's grids, which the paper does not try.

    Paper: Yang et al., "ViTKD: Practical Guidelines for ViT feature knowledge distillation", 2022,
        https://huggingface.co/papers/2209.02432
    Differs: nothing for two transformers without a normalisation behind the last block; where there is one, the
        authors' code compares what it gives, and here the block itself is compared, as of all others. The paper's best
        students learn from the logits by another objective, too, which further terms may add.

    Args:
        student: The student; only names of its layers are read.
        teacher: Likewise the teacher.
        shallow: How many first blocks are mimicked, token by token.
        share: The share of the places of the last block that is hidden.
        shallow_weight: The weight of each first block, of a sum over the tokens of an image (alpha in the paper).
        deep_weight: The weight of the last block, likewise (beta).
        logits_weight: The weight of knowledge distillation; 0 compares no logits.
        label_weight: The weight of the cross-entropy with the labels; 0 trains without labels.
        temperature: What the logits are divided by for `logits_weight`.

    Raises:
        ValueError: If a model has no blocks, or not one more than `shallow`.

    Example:
        >>> from transformers import ViTConfig, ViTForImageClassification
        >>> from hf_abkd import vitkd
        >>> config = ViTConfig(hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=8)
        >>> vit = ViTForImageClassification(config)
        >>> [(term.student, term.weight) for term in vitkd(vit, vit)[0].terms[:3]]
        [('vit.layers.0', 3e-05), ('vit.layers.1', 3e-05), ('vit.layers.2', 3e-06)]
    """
    ours, theirs = blocks(student), blocks(teacher)
    if not 0 <= shallow < min(len(ours), len(theirs)):
        raise ValueError(
            f"shallow must be in [0, {min(len(ours), len(theirs)) - 1}], as the student has {len(ours)} blocks and the "
            f"teacher {len(theirs)}, of which the last is generated; got {shallow}"
        )
    mimicked = [
        Term(HiddenStates(reduction="sum", special_tokens=False), student=one, teacher=other, weight=shallow_weight)
        for one, other in zip(ours[:shallow], theirs[:shallow], strict=True)
    ]
    generated = Term(MaskedTokenGeneration(share=share), student=ours[-1], teacher=theirs[-1], weight=deep_weight)
    terms = [*mimicked, generated, *beside_layers(label_weight, logits_weight, temperature)]
    return [Stage(terms=terms, name="blocks")]
