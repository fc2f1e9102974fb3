"""An extra head in the place of terms on logits, for a teacher whose classes are not the student's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hf_abkd.models.outputs import LOGITS
from hf_abkd.objectives import CrossEntropy, Objective
from hf_abkd.stages.schedules import Schedule
from hf_abkd.stages.term import Term, checked_weight


@dataclass(frozen=True, eq=False)
class ExtraHead:
    """A linear head on the input of the student's classifier, from which it predicts the teacher's logits.

    A stage that has one is trained by it where teacher and student share fewer than two classes; terms that compare
    their logits make way for the cross-entropy with the labels, which takes over their weight. Where classes are
    shared, it is left out. One that stands in two stages keeps its weights from the one to the other.

    Args:
        objective: Compares the head's logits with the teacher's.
        weight: The weight of that term.

    Raises:
        TypeError: If the weight is neither a number nor a schedule.
        ValueError: If it is negative.
    """

    objective: Objective
    weight: float | Schedule

    def __post_init__(self) -> None:
        """Check the weight."""
        checked_weight(self.weight)

    def term(self, student: str) -> Term:
        """Return the term.

        Args:
            student: The tensor of the student that the head reads.
        """
        return Term(self.objective, student=student, teacher=LOGITS, weight=self.weight, connector="linear")


def without_shared_classes(terms: Sequence[Term], head: Term) -> list[Term]:
    """Return the terms of a stage for a teacher of other classes: no logits are compared, and there is an extra head.

    Args:
        terms: Those for a teacher of the same classes.
        head: The term of the extra head.
    """
    compared = [term for term in terms if term.student == term.teacher == LOGITS]
    kept = [term for term in terms if term.student != LOGITS or term.teacher != LOGITS]
    if not compared:
        return [*kept, head]
    weights = [term.weight for term in compared]
    of_labels = [term for term in kept if isinstance(term.objective, CrossEntropy) and term.rows is None]
    if not of_labels:
        plain = all(isinstance(weight, float) for weight in weights)
        weight = sum(weight for weight in weights if isinstance(weight, float)) if plain else 1.0
        return [*kept, Term(CrossEntropy(), weight=weight), head]
    first = of_labels[0]
    if isinstance(first.weight, float) and all(isinstance(weight, float) for weight in weights):
        total = first.weight + sum(weight for weight in weights if isinstance(weight, float))
        kept = [replace(term, weight=total) if term is first else term for term in kept]
    return [*kept, head]
