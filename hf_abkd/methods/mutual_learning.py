"""Deep mutual learning: two students that train each other, without a teacher that knows better.

Paper: Zhang et al., CVPR 2018, https://huggingface.co/papers/1706.00384
What differs from the paper is told at `mutual_learning`.
"""

from __future__ import annotations

from hf_abkd.objectives import CrossEntropy, KnowledgeDistillation
from hf_abkd.stages.schedules import Schedule
from hf_abkd.stages.stage import Stage
from hf_abkd.stages.term import Term


def mutual_learning(
    *,
    temperature: float = 1.0,
    weight: float | Schedule = 1.0,
    label_weight: float | Schedule = 1.0,
) -> list[Stage]:
    """Return the one stage of Zhang et al.: two students learn from the labels and from each other.

    The second student is the `teacher` of the trainer, which is trained in the same steps. The loss of each is
    CE + KL(p_other || p_own), in which the other's probabilities are constants, so that a step by the sum of both
    losses is a step of each student by its own. Both are moved by one optimiser with one learning rate, and gradients
    are clipped (`max_grad_norm`) by their common norm. They may be of any two architectures with the same classes.

    The first is what is evaluated, saved and published, as in any run. The second, which is changed for good, is
    `trainer.teacher.model`: `save_pretrained` keeps it, `trainer.evaluate_teacher()` measures it, and checkpoints hold
    it. Students that begin with the same weights would never learn from each other, and are warned of.

    Paper: Zhang et al., CVPR 2018, https://huggingface.co/papers/1706.00384
    Differs from the paper: each student learns from what the other says before both are stepped; in the paper the
        second learns from the first one after its step. Two students, where the paper has more of them, too.

    Args:
        temperature: What logits are divided by; the divergence is multiplied by its square.
        weight: The weight of the divergence from the other, for both.
        label_weight: The weight of the cross-entropy with the labels, for both; 0 trains without labels.

    Raises:
        ValueError: If `weight` is 0: two students would be trained side by side.

    Example:
        >>> [stage] = mutual_learning()
        >>> [term.name for term in stage.teacher_terms]
        ['teacher/knowledge_distillation', 'teacher/cross_entropy']
    """
    if weight == 0:
        raise ValueError("weight is 0: the students would not learn from each other; train each in a run of its own")

    def terms(prefix: str) -> list[Term]:
        found = [
            Term(
                KnowledgeDistillation(temperature=temperature),
                weight=weight,
                name=f"{prefix}knowledge_distillation",
            )
        ]
        if label_weight != 0:
            found.append(Term(CrossEntropy(), weight=label_weight, name=f"{prefix}cross_entropy"))
        return found

    return [Stage(terms(""), teacher_terms=terms("teacher/"), name="mutual learning")]
