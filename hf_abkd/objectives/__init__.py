"""Objectives: one formula per file, and the table of them."""

from hf_abkd.objectives.activation_boundary import ActivationBoundary, boundary_agreement
from hf_abkd.objectives.adaptive_target_enhancement import AdaptiveTargetEnhancement
from hf_abkd.objectives.centered_logits import CenteredLogits
from hf_abkd.objectives.cross_entropy import CrossEntropy
from hf_abkd.objectives.decoupled_knowledge_distillation import DecoupledKnowledgeDistillation
from hf_abkd.objectives.domain_classification import DomainClassification
from hf_abkd.objectives.feature_correlation import FeatureCorrelation
from hf_abkd.objectives.flow_of_solution_procedure import FlowOfSolutionProcedure
from hf_abkd.objectives.knowledge_distillation import KnowledgeDistillation
from hf_abkd.objectives.logit_standardization import LogitStandardization
from hf_abkd.objectives.maximum_mean_discrepancy import MaximumMeanDiscrepancy
from hf_abkd.objectives.multi_level_logit_distillation import MultiLevelLogitDistillation
from hf_abkd.objectives.objective import Objective
from hf_abkd.objectives.overhaul_distillation import OverhaulDistillation
from hf_abkd.objectives.stronger_teacher import StrongerTeacher
from hf_abkd.objectives.teacher_free_regularization import TeacherFreeRegularization

OBJECTIVES: dict[str, type[Objective]] = {
    "activation_boundary": ActivationBoundary,
    "adaptive_target_enhancement": AdaptiveTargetEnhancement,
    "centered_logits": CenteredLogits,
    "cross_entropy": CrossEntropy,
    "decoupled_knowledge_distillation": DecoupledKnowledgeDistillation,
    "domain_classification": DomainClassification,
    "feature_correlation": FeatureCorrelation,
    "flow_of_solution_procedure": FlowOfSolutionProcedure,
    "knowledge_distillation": KnowledgeDistillation,
    "logit_standardization": LogitStandardization,
    "maximum_mean_discrepancy": MaximumMeanDiscrepancy,
    "multi_level_logit_distillation": MultiLevelLogitDistillation,
    "overhaul_distillation": OverhaulDistillation,
    "stronger_teacher": StrongerTeacher,
    "teacher_free_regularization": TeacherFreeRegularization,
}

__all__ = [
    "OBJECTIVES",
    "ActivationBoundary",
    "AdaptiveTargetEnhancement",
    "CenteredLogits",
    "CrossEntropy",
    "DecoupledKnowledgeDistillation",
    "DomainClassification",
    "FeatureCorrelation",
    "FlowOfSolutionProcedure",
    "KnowledgeDistillation",
    "LogitStandardization",
    "MaximumMeanDiscrepancy",
    "MultiLevelLogitDistillation",
    "Objective",
    "OverhaulDistillation",
    "StrongerTeacher",
    "TeacherFreeRegularization",
    "boundary_agreement",
]
