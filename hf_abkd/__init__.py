"""Distil Hugging Face vision models by activation boundaries, with ``transformers.Trainer``."""

from hf_abkd.data.paired_domains import PairedDomains
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
from hf_abkd.stages.arguments import DistillationArguments
from hf_abkd.stages.stage import Stage
from hf_abkd.stages.term import Term
from hf_abkd.teachers.cache.settings import CacheSettings
from hf_abkd.teachers.cache.teacher_cache import TeacherCache
from hf_abkd.teachers.cache.writing import write_cache
from hf_abkd.teachers.route.recorder import RouteRecorder
from hf_abkd.training.trainer import DistillationTrainer
from hf_abkd.version import __version__

__all__ = [
    "ActivationBoundary",
    "AdaptiveDeepInversion",
    "CacheSettings",
    "CenteredLogits",
    "CrossEntropy",
    "DeepInversion",
    "DistillationArguments",
    "DistillationTrainer",
    "KnowledgeDistillation",
    "Objective",
    "PairedDomains",
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
