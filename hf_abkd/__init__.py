"""Distil Hugging Face vision models by activation boundaries, with ``transformers.Trainer``."""

from hf_abkd.args import DistillationArguments
from hf_abkd.caching import Recipe, write_cache
from hf_abkd.domains import PairedDomains
from hf_abkd.methods import (
    AdaptiveDeepInversion,
    DeepInversion,
    activation_boundary,
    boundary_supporting_samples,
    joint_adaptation,
    knowledge_distillation,
    route_constrained,
    synthesize,
)
from hf_abkd.objectives import ActivationBoundary, CenteredLogits, CrossEntropy, KnowledgeDistillation, Objective
from hf_abkd.route_recorder import RouteRecorder
from hf_abkd.stages import Stage
from hf_abkd.teacher_cache import TeacherCache
from hf_abkd.terms import Term
from hf_abkd.trainer import DistillationTrainer
from hf_abkd.version import __version__

__all__ = [
    "ActivationBoundary",
    "AdaptiveDeepInversion",
    "CenteredLogits",
    "CrossEntropy",
    "DeepInversion",
    "DistillationArguments",
    "DistillationTrainer",
    "KnowledgeDistillation",
    "Objective",
    "PairedDomains",
    "Recipe",
    "RouteRecorder",
    "Stage",
    "TeacherCache",
    "Term",
    "__version__",
    "activation_boundary",
    "boundary_supporting_samples",
    "joint_adaptation",
    "knowledge_distillation",
    "route_constrained",
    "synthesize",
    "write_cache",
]
