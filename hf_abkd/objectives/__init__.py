"""Objectives: one formula per file, and the table of them."""

from hf_abkd.objectives.activation_boundary import ActivationBoundary, boundary_agreement
from hf_abkd.objectives.adaptive_target_enhancement import AdaptiveTargetEnhancement
from hf_abkd.objectives.attention_distillation import AttentionDistillation
from hf_abkd.objectives.attention_transfer import AttentionTransfer
from hf_abkd.objectives.centered_logits import CenteredLogits
from hf_abkd.objectives.contrastive_representation_distillation import ContrastiveRepresentationDistillation
from hf_abkd.objectives.correlation_congruence import CorrelationCongruence
from hf_abkd.objectives.cross_entropy import CrossEntropy
from hf_abkd.objectives.decoupled_knowledge_distillation import DecoupledKnowledgeDistillation
from hf_abkd.objectives.deep_self_attention_distillation import DeepSelfAttentionDistillation
from hf_abkd.objectives.domain_classification import DomainClassification
from hf_abkd.objectives.factor_transfer import FactorTransfer
from hf_abkd.objectives.feature_correlation import FeatureCorrelation
from hf_abkd.objectives.feature_distance import FeatureDistance
from hf_abkd.objectives.flow_of_solution_procedure import FlowOfSolutionProcedure
from hf_abkd.objectives.hidden_states import HiddenStates
from hf_abkd.objectives.hint import Hint
from hf_abkd.objectives.inter_channel_correlation import InterChannelCorrelation
from hf_abkd.objectives.knowledge_distillation import KnowledgeDistillation
from hf_abkd.objectives.knowledge_review import KnowledgeReview
from hf_abkd.objectives.logit_standardization import LogitStandardization
from hf_abkd.objectives.masked_generative_distillation import MaskedGenerativeDistillation
from hf_abkd.objectives.masked_token_generation import MaskedTokenGeneration
from hf_abkd.objectives.maximum_mean_discrepancy import MaximumMeanDiscrepancy
from hf_abkd.objectives.multi_level_logit_distillation import MultiLevelLogitDistillation
from hf_abkd.objectives.neuron_selectivity_transfer import NeuronSelectivityTransfer
from hf_abkd.objectives.objective import Objective
from hf_abkd.objectives.overhaul_distillation import OverhaulDistillation
from hf_abkd.objectives.prime_aware_adaptive_distillation import PrimeAwareAdaptiveDistillation
from hf_abkd.objectives.probabilistic_knowledge_transfer import ProbabilisticKnowledgeTransfer
from hf_abkd.objectives.relational_angle import RelationalAngle
from hf_abkd.objectives.relational_distance import RelationalDistance
from hf_abkd.objectives.self_attention_relation_distillation import SelfAttentionRelationDistillation
from hf_abkd.objectives.similarity_preserving import SimilarityPreserving
from hf_abkd.objectives.simple_recipe_distillation import SimpleRecipeDistillation
from hf_abkd.objectives.singular_vector_distillation import SingularVectorDistillation
from hf_abkd.objectives.stronger_teacher import StrongerTeacher
from hf_abkd.objectives.teacher_free_regularization import TeacherFreeRegularization
from hf_abkd.objectives.variational_information_distillation import VariationalInformationDistillation

OBJECTIVES: dict[str, type[Objective]] = {
    "activation_boundary": ActivationBoundary,
    "adaptive_target_enhancement": AdaptiveTargetEnhancement,
    "attention_distillation": AttentionDistillation,
    "attention_transfer": AttentionTransfer,
    "centered_logits": CenteredLogits,
    "correlation_congruence": CorrelationCongruence,
    "contrastive_representation_distillation": ContrastiveRepresentationDistillation,
    "cross_entropy": CrossEntropy,
    "decoupled_knowledge_distillation": DecoupledKnowledgeDistillation,
    "deep_self_attention_distillation": DeepSelfAttentionDistillation,
    "domain_classification": DomainClassification,
    "factor_transfer": FactorTransfer,
    "feature_correlation": FeatureCorrelation,
    "feature_distance": FeatureDistance,
    "flow_of_solution_procedure": FlowOfSolutionProcedure,
    "hidden_states": HiddenStates,
    "hint": Hint,
    "inter_channel_correlation": InterChannelCorrelation,
    "knowledge_distillation": KnowledgeDistillation,
    "knowledge_review": KnowledgeReview,
    "logit_standardization": LogitStandardization,
    "masked_generative_distillation": MaskedGenerativeDistillation,
    "masked_token_generation": MaskedTokenGeneration,
    "maximum_mean_discrepancy": MaximumMeanDiscrepancy,
    "multi_level_logit_distillation": MultiLevelLogitDistillation,
    "neuron_selectivity_transfer": NeuronSelectivityTransfer,
    "overhaul_distillation": OverhaulDistillation,
    "prime_aware_adaptive_distillation": PrimeAwareAdaptiveDistillation,
    "probabilistic_knowledge_transfer": ProbabilisticKnowledgeTransfer,
    "relational_angle": RelationalAngle,
    "relational_distance": RelationalDistance,
    "self_attention_relation_distillation": SelfAttentionRelationDistillation,
    "similarity_preserving": SimilarityPreserving,
    "simple_recipe_distillation": SimpleRecipeDistillation,
    "singular_vector_distillation": SingularVectorDistillation,
    "stronger_teacher": StrongerTeacher,
    "teacher_free_regularization": TeacherFreeRegularization,
    "variational_information_distillation": VariationalInformationDistillation,
}

__all__ = [
    "OBJECTIVES",
    "ActivationBoundary",
    "AdaptiveTargetEnhancement",
    "AttentionDistillation",
    "AttentionTransfer",
    "CenteredLogits",
    "ContrastiveRepresentationDistillation",
    "CorrelationCongruence",
    "CrossEntropy",
    "DecoupledKnowledgeDistillation",
    "DeepSelfAttentionDistillation",
    "DomainClassification",
    "FactorTransfer",
    "FeatureCorrelation",
    "FeatureDistance",
    "FlowOfSolutionProcedure",
    "HiddenStates",
    "Hint",
    "InterChannelCorrelation",
    "KnowledgeDistillation",
    "KnowledgeReview",
    "LogitStandardization",
    "MaskedGenerativeDistillation",
    "MaskedTokenGeneration",
    "MaximumMeanDiscrepancy",
    "MultiLevelLogitDistillation",
    "NeuronSelectivityTransfer",
    "Objective",
    "OverhaulDistillation",
    "PrimeAwareAdaptiveDistillation",
    "ProbabilisticKnowledgeTransfer",
    "RelationalAngle",
    "RelationalDistance",
    "SelfAttentionRelationDistillation",
    "SimilarityPreserving",
    "SimpleRecipeDistillation",
    "SingularVectorDistillation",
    "StrongerTeacher",
    "TeacherFreeRegularization",
    "VariationalInformationDistillation",
    "boundary_agreement",
]
