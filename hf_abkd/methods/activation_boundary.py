"""Activation boundary distillation: initialise the student by boundaries, then train it to classify.

Paper: Heo et al., AAAI 2019, https://huggingface.co/papers/1811.03233
What differs from the paper is told at `activation_boundary`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from hf_abkd.layers.plan import Plan
from hf_abkd.objectives import ActivationBoundary, CenteredLogits, CrossEntropy, KnowledgeDistillation
from hf_abkd.objectives.activation_boundary import UNITS_PER_CHANNEL
from hf_abkd.stages.extra_head import ExtraHead
from hf_abkd.stages.schedules import Linear
from hf_abkd.stages.stage import Stage
from hf_abkd.stages.term import PairedTerms, Term

# What `benchmarks/settings_search.py` chose: the share of a run, and the weight of a layer (that of the authors for a
# teacher of widen factor 1).
INITIALIZATION_SHARE, BOUNDARY_WEIGHT = 0.75, 12.288
# With 118 steps for the first stage students came out 7 points below those of KD, with 237 6 points above.
_ENOUGH_STEPS = 150
# The learning rate schedule of the paper's second phase: divided by 5 at these shares of it.
CLASSIFICATION_SCHEDULE: Mapping[str, Any] = {"lr_milestones": [0.3, 0.6, 0.8], "lr_gamma": 0.2}


def activation_boundary(
    layers: Sequence[tuple[str, str]] | Plan | None = None,
    *,
    margin: float = 1.0,
    reduction: Literal["mean", "sum"] = "mean",
    units_per_channel: float | None = UNITS_PER_CHANNEL,
    weight: float = BOUNDARY_WEIGHT,
    layer_weights: Sequence[float] | None = None,
    initialization_share: float | None = INITIALIZATION_SHARE,
    initialization_epochs: float | None = None,
    initialization_arguments: Mapping[str, Any] | None = None,
    classification: Sequence[Term] | None = None,
    classification_from_start: bool = True,
    classification_arguments: Mapping[str, Any] | None = None,
    boundaries_fall: bool = False,
    transfer_head: str | None = "auto",
    transfer_weight: float = 10.0,
) -> list[Stage]:
    """Return the two stages of Heo et al.: boundaries first, then classes.

    The first trains the student and the connectors by the boundary objective, at a constant learning rate, and by the
    terms of the second beside it. The second drops the connectors and trains the student to classify.

    Paper: Heo et al., AAAI 2019, https://huggingface.co/papers/1811.03233
    Differs from the authors' code: the first stage has the terms of the second, too, so that the head is not random
        when it begins (`classification_from_start=False` leaves them out), and the optimiser is AdamW unless the
        arguments say otherwise: with both, students were better in every run that was compared; the teacher is in eval
        mode; the default reduction is the mean (see `ActivationBoundary` for the conversion); the optimiser is not made
        anew at each drop of the learning rate (`classification_arguments=CLASSIFICATION_SCHEDULE` has their drops).

    Args:
        layers: Pairs of module names, student's first, or a plan (`Plan.load("plan.yaml")`). A module stands for the
            response before the activation that gives its output; `"module:input"` and `"module:output"` name a
            response directly. None pairs layers automatically.
        margin: How far past the boundary counts as safe (mu in the paper).
        reduction: "mean" over elements, or the authors' "sum" over elements and mean over samples.
        units_per_channel: How many of the teacher's units are compared, at most, for each channel of the student; None
            for all of them (see `ActivationBoundary`).
        weight: The weight of the boundary objective of every layer.
        layer_weights: A factor for each pair of names; 1 by default. The authors' are 1/4, 1/2, 1 with "sum". A plan
            has its own.
        initialization_share: Share of the run that the first stage takes.
        initialization_epochs: Its length in epochs, instead of a share.
        initialization_arguments: Training arguments of the first stage only.
        classification: The terms of the second stage. By default the paper's: the teacher's softened
            probabilities at temperature 3, without the squared temperature and without labels; in transfer
            learning the cross-entropy. With `transfer_head="auto"`, terms of yours that compare logits make way for it
            as well where the teacher has other classes; it takes over their weight.
        classification_from_start: Train by these terms in the first stage, too.
        classification_arguments: Training arguments of the second stage only.
        boundaries_fall: Keep the boundaries in the second stage, with a weight that falls to 0 in it; the paper drops
            them.
        transfer_head: For a teacher with other classes than the data set: the tensor of the student from which an extra
            linear head predicts the teacher's logits in both stages. "auto" does so where the two models share fewer
            than two classes, from the input of the student's classifier, and changes nothing else; a name
            ("classifier:input") does so in any case; None never does, and terms on logits are refused then.
        transfer_weight: The weight of that term.

    Raises:
        ValueError: If there are no layers, or not one weight for each.

    Example:
        >>> [stage.name for stage in activation_boundary([("layer3", "layer4")], initialization_share=0.4)]
        ['initialization', 'classification']
    """
    if layers is not None and not isinstance(layers, Plan):
        layers = Plan.of_names(layers, layer_weights)
    elif layer_weights is not None:
        raise ValueError("layer_weights belong to named layers; a plan has the weights of its pairs in it")
    objective = ActivationBoundary(margin=margin, reduction=reduction, units_per_channel=units_per_channel)
    paired = PairedTerms(objective, plan=layers, weight=weight)
    boundaries = [paired] if layers is None else paired.terms(layers)
    head = ExtraHead(CenteredLogits(), transfer_weight)
    named = transfer_head not in (None, "auto")
    # One term object in both stages: its head goes on where it was.
    transfer = [head.term(str(transfer_head))] if named else []
    extra_head = head if transfer_head == "auto" else None
    if classification is None:
        paper = KnowledgeDistillation(temperature=3.0, temperature_squared=False)
        classification = [Term(CrossEntropy() if named else paper)]
    return [
        Stage(
            terms=[*boundaries, *(classification if classification_from_start else ()), *transfer],
            name="initialization",
            epochs=initialization_epochs,
            share=initialization_share if initialization_epochs is None else None,
            arguments=dict(initialization_arguments or {}),
            suggested={"lr_scheduler_type": "constant"},
            enough_steps=_ENOUGH_STEPS,
            extra_head=extra_head,
        ),
        Stage(
            terms=[*(boundaries if boundaries_fall else ()), *classification, *transfer],
            name="classification",
            factors={"activation_boundary": Linear(1.0, 0.0)} if boundaries_fall else {},
            arguments=dict(classification_arguments or {}),
            extra_head=extra_head,
        ),
    ]
