"""Published systems: lists of stages, and what makes data for them.

Each has a file or folder of its name: activation boundaries, knowledge distillation, feature distillation, factor
transfer, boundary (supporting) samples, route constrained optimisation, joint (progressive) adaptation, mutual
learning, DeepInversion and, for transformers, MiniLM, attention distillation, hidden states, ViTKD and one for all.
`METHODS` is the table of those that return stages, which recipes name.
"""

from collections.abc import Callable

from hf_abkd.methods.activation_boundary import (
    BOUNDARY_WEIGHT,
    CLASSIFICATION_SCHEDULE,
    INITIALIZATION_SHARE,
    activation_boundary,
)
from hf_abkd.methods.attention_distillation import attention_distillation
from hf_abkd.methods.boundary_samples.attack import BoundaryAttack
from hf_abkd.methods.boundary_samples.samples import BoundarySamples, boundary_supporting_samples
from hf_abkd.methods.deep_inversion.adaptive import AdaptiveDeepInversion
from hf_abkd.methods.deep_inversion.image_quality import measure_quality
from hf_abkd.methods.deep_inversion.settings import DeepInversion
from hf_abkd.methods.deep_inversion.synthesis import synthesize
from hf_abkd.methods.factor_transfer import factor_transfer
from hf_abkd.methods.feature_distillation import feature_distillation
from hf_abkd.methods.hidden_state_distillation import hidden_state_distillation
from hf_abkd.methods.joint_adaptation import domain_confusion, joint_adaptation
from hf_abkd.methods.knowledge_distillation import knowledge_distillation
from hf_abkd.methods.minilm import minilm
from hf_abkd.methods.mutual_learning import mutual_learning
from hf_abkd.methods.one_for_all import one_for_all
from hf_abkd.methods.route_constrained import GreedyRoute, equal_interval, route_constrained
from hf_abkd.methods.vitkd import vitkd
from hf_abkd.stages.stage import Stage

METHODS: dict[str, Callable[..., list[Stage]]] = {
    "activation_boundary": activation_boundary,
    "attention_distillation": attention_distillation,
    "boundary_supporting_samples": boundary_supporting_samples,
    "factor_transfer": factor_transfer,
    "feature_distillation": feature_distillation,
    "hidden_state_distillation": hidden_state_distillation,
    "joint_adaptation": joint_adaptation,
    "knowledge_distillation": knowledge_distillation,
    "minilm": minilm,
    "mutual_learning": mutual_learning,
    "one_for_all": one_for_all,
    "route_constrained": route_constrained,
    "vitkd": vitkd,
}

__all__ = [
    "BOUNDARY_WEIGHT",
    "CLASSIFICATION_SCHEDULE",
    "INITIALIZATION_SHARE",
    "METHODS",
    "AdaptiveDeepInversion",
    "BoundaryAttack",
    "BoundarySamples",
    "DeepInversion",
    "GreedyRoute",
    "activation_boundary",
    "attention_distillation",
    "boundary_supporting_samples",
    "domain_confusion",
    "equal_interval",
    "factor_transfer",
    "feature_distillation",
    "hidden_state_distillation",
    "joint_adaptation",
    "knowledge_distillation",
    "measure_quality",
    "minilm",
    "mutual_learning",
    "one_for_all",
    "route_constrained",
    "synthesize",
    "vitkd",
]
