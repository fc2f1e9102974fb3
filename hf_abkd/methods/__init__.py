"""Published systems as lists of stages."""

from hf_abkd.methods.activation_boundary import CLASSIFICATION_SCHEDULE, activation_boundary
from hf_abkd.methods.knowledge_distillation import knowledge_distillation

__all__ = ["CLASSIFICATION_SCHEDULE", "activation_boundary", "knowledge_distillation"]
