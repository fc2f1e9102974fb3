"""Knowledge distillation: the teacher's softened probabilities beside the labels.

Paper: Hinton et al., 2015, https://huggingface.co/papers/1503.02531
What differs from the paper is told at `knowledge_distillation`.
"""

from __future__ import annotations

from hf_abkd.objectives import CrossEntropy, KnowledgeDistillation
from hf_abkd.stages.schedules import Schedule
from hf_abkd.stages.stage import Stage
from hf_abkd.stages.term import Term


def knowledge_distillation(
    *,
    temperature: float = 4.0,
    temperature_squared: bool = True,
    weight: float | Schedule = 0.9,
    label_weight: float | Schedule = 0.1,
) -> list[Stage]:
    """Return the one stage of Hinton et al.: the student learns from the labels and from what the teacher says.

    Paper: Hinton et al., 2015, https://huggingface.co/papers/1503.02531
    Differs: nothing; of the weights the paper says only that the labels' is considerably lower.

    Args:
        temperature: What the logits are divided by.
        temperature_squared: Multiply by the squared temperature.
        weight: The weight of the teacher's probabilities; 0 trains without the teacher.
        label_weight: The weight of the cross-entropy with the labels; 0 trains without labels.

    Raises:
        ValueError: If both weights are 0.

    Example:
        >>> [stage] = knowledge_distillation(temperature=2.0, label_weight=0)
        >>> [term.weight for term in stage.terms]
        [0.9]
    """
    objective = KnowledgeDistillation(temperature=temperature, temperature_squared=temperature_squared)
    weighted = [(objective, weight), (CrossEntropy(), label_weight)]
    # A term of no weight would be computed in every step.
    terms = [Term(one, weight=of_one) for one, of_one in weighted if of_one != 0]
    if not terms:
        raise ValueError("weight and label_weight are both 0: nothing is left to learn")
    return [Stage(terms=terms, name="distillation")]
