"""What stands beside terms that compare layers: the labels, and what the teacher says of the images."""

from __future__ import annotations

from hf_abkd.objectives import CrossEntropy, KnowledgeDistillation, Objective
from hf_abkd.stages.schedules import Schedule
from hf_abkd.stages.term import Term


def beside_layers(
    label_weight: float | Schedule, logits_weight: float | Schedule, temperature: float = 4.0
) -> list[Term]:
    """Return the terms of knowledge distillation and of the labels, without those of the weight 0.

    Args:
        label_weight: The weight of the cross-entropy with the labels.
        logits_weight: The weight of the teacher's softened probabilities.
        temperature: What the logits are divided by for these.
    """
    weighted: list[tuple[Objective, float | Schedule]] = [
        (KnowledgeDistillation(temperature=temperature), logits_weight),
        (CrossEntropy(), label_weight),
    ]
    # A term of no weight would be computed in every step.
    return [Term(one, weight=of_one) for one, of_one in weighted if of_one != 0]
