"""Feature distillation: any objective that compares layers, beside the labels and what the teacher says.

What each objective's paper is, and what differs from it, is told at the objective.
"""

from __future__ import annotations

from collections.abc import Sequence

from hf_abkd.layers.plan import Plan
from hf_abkd.methods.beside_layers import beside_layers
from hf_abkd.objectives import Objective
from hf_abkd.objectives.objective import Pairs
from hf_abkd.stages.schedules import Schedule
from hf_abkd.stages.stage import Stage
from hf_abkd.stages.term import PairedTerms


def feature_distillation(
    objective: Objective,
    layers: Sequence[tuple[str, str]] | Plan | None = None,
    *,
    weight: float | Schedule | None = None,
    layer_weights: Sequence[float] | None = None,
    pairs: Pairs | None = None,
    temperature: float = 4.0,
    logits_weight: float | Schedule = 0.0,
    label_weight: float | Schedule = 1.0,
) -> list[Stage]:
    """Return one stage in which the student learns from layers of the teacher, beside the labels.

    Paper: that of the objective. One stage with labels of the weight 1 and without the teacher's logits is how CRD's
        benchmark (Tian et al., ICLR 2020, https://huggingface.co/papers/1910.10699) compares such objectives;
        `logits_weight` adds knowledge distillation, as it does in a second table.
    Differs: where no layers are named, they are paired automatically: responses behind the activations that end the
        stages of both models, or what their last layers read, as the objective says.

    Args:
        objective: What compares layers of both models, one by one, such as `Hint()` or `AttentionTransfer()`, each
            with the one behind it, `FlowOfSolutionProcedure()`, or all at once, such as `KnowledgeReview()`.
        layers: Pairs of module names, student's first, or a plan (`Plan.load("plan.yaml")`). A module stands for its
            output; `"module:input"` names what it reads. None pairs layers automatically.
        weight: The weight of the objective at every pair; by default the published one, `objective.published_weight`.
        layer_weights: A factor for each pair of names; 1 by default. A plan has its own.
        pairs: Which layers are paired where none are named: `"all"`, the `"last"` ones alone, or `"head"`, what the
            last layers of the models read. None takes what the objective says, `objective.pairs`, and of one that
            compares neighbours nothing else can be said.
        temperature: What the logits are divided by for `logits_weight`.
        logits_weight: The weight of knowledge distillation; 0 compares no logits.
        label_weight: The weight of the cross-entropy with the labels; 0 trains without labels.

    Raises:
        TypeError: If the objective compares nothing of the teacher, or a fixed number of layers that are no neighbours.
        ValueError: If there are no layers, not one weight for each, or both layers and `pairs` are given.

    Example:
        >>> from hf_abkd import AttentionTransfer, feature_distillation
        >>> [stage] = feature_distillation(AttentionTransfer(), [("encoder.stages.3", "layer4")])
        >>> [(term.name, term.weight) for term in stage.terms]
        [('attention_transfer/encoder.stages.3', 1000.0), ('cross_entropy', 1.0)]
    """
    if layers is not None and not isinstance(layers, Plan):
        layers = Plan.of_names(layers, layer_weights)
    elif layer_weights is not None:
        raise ValueError("layer_weights belong to named layers; a plan has the weights of its pairs in it")
    weight = objective.published_weight if weight is None and isinstance(objective, Objective) else weight
    paired = PairedTerms(objective, plan=layers, weight=1.0 if weight is None else weight, pairs=pairs)
    features = [paired] if layers is None else paired.terms(layers)
    return [
        Stage(terms=[*features, *beside_layers(label_weight, logits_weight, temperature)], name="feature distillation")
    ]
