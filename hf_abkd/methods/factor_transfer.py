"""Factor transfer: a paraphraser of the teacher first, then a student that translates into its factors.

Paper: Kim, Park and Kwak, NeurIPS 2018, https://huggingface.co/papers/1802.04977
What differs from the paper is told at `factor_transfer`.
"""

from __future__ import annotations

from collections.abc import Sequence

from hf_abkd.layers.paraphraser import Paraphraser
from hf_abkd.objectives import CrossEntropy, FactorTransfer
from hf_abkd.objectives.factor_transfer import Paraphrasing
from hf_abkd.stages.schedules import Schedule
from hf_abkd.stages.stage import Stage
from hf_abkd.stages.term import PairedTerms, Term


def factor_transfer(
    layers: tuple[str, str] | None = None,
    *,
    rate: float = 0.5,
    weight: float | Schedule = 500.0,
    classification: Sequence[Term] | None = None,
    paraphrasing_share: float | None = 0.1,
    paraphrasing_epochs: float | None = None,
) -> list[Stage]:
    """Return the two stages of Kim et al.: the paraphraser learns the teacher's layer, the student its factors.

    The first stage trains no part of the student.

    Paper: Kim, Park and Kwak, NeurIPS 2018, https://huggingface.co/papers/1802.04977 (a rate of 0.5, and weights of 500
        to 1000 beside the labels)
    Differs: the stages divide the length of the run, and layers that are not named are found.

    Args:
        layers: The layer of the student and that of the teacher, each on a grid over the image. None takes the last of
            those that are paired automatically, as in the paper.
        rate: How many factors there are, as a share of the channels of the teacher's layer.
        weight: The weight of the factors in the second stage.
        classification: What stands beside the factors; the labels by default.
        paraphrasing_share: How long the first stage is, as a share of the run.
        paraphrasing_epochs: How long it is, in passes over the training set, in the place of a share.

    Raises:
        ValueError: If a setting is out of range, or `layers` are not two names.

    Example:
        >>> first, second = factor_transfer(("encoder.stages.1", "encoder.stages.3"))
        >>> [term.name for term in second.terms]
        ['factor_transfer/encoder.stages.1', 'cross_entropy']
    """
    paraphraser = Paraphraser(rate)
    beside = [Term(CrossEntropy())] if classification is None else list(classification)
    length = {"epochs": paraphrasing_epochs} if paraphrasing_epochs is not None else {"share": paraphrasing_share}
    learnt, matched = Paraphrasing(paraphraser=paraphraser), FactorTransfer(paraphraser=paraphraser)
    features: tuple[Term | PairedTerms, Term | PairedTerms]
    if layers is None:
        features = PairedTerms(learnt, pairs="last"), PairedTerms(matched, weight=weight)
    elif isinstance(layers, str) or len(layers) != 2:
        raise ValueError(f"layers must be the student's layer and the teacher's, two names, got {layers!r}")
    else:
        student, teacher = layers
        features = (
            Term(learnt, student=student, teacher=teacher, name="paraphrasing"),
            Term(matched, student=student, teacher=teacher, weight=weight),
        )
    return [
        Stage(terms=[features[0]], name="paraphrasing", **length),
        Stage(terms=[features[1], *beside], name="transfer"),
    ]
