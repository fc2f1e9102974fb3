"""Distil Hugging Face vision models by activation boundaries, with ``transformers.Trainer``.

Names are loaded when they are first used, so that importing the package, or asking the command line for help, does not
load torch and transformers.
"""

from typing import TYPE_CHECKING

from hf_abkd.version import __version__

if TYPE_CHECKING:
    # What type checkers and editors read; the table below says the same to Python, and a test compares the two.
    from hf_abkd import methods, objectives
    from hf_abkd.data import augment
    from hf_abkd.data.arguments import DataArguments
    from hf_abkd.data.loading import load_image_datasets
    from hf_abkd.data.paired_domains import PairedDomains
    from hf_abkd.data.pixel_cache.pixel_cache import PixelCache
    from hf_abkd.data.pixel_cache.writing import write_pixels
    from hf_abkd.data.transform import ImageTransform, prepare
    from hf_abkd.export.exporting import export_student
    from hf_abkd.layers.layer_pair import LayerPair
    from hf_abkd.layers.plan import Plan
    from hf_abkd.methods import (
        AdaptiveDeepInversion,
        BoundaryAttack,
        BoundarySamples,
        DeepInversion,
        GreedyRoute,
        activation_boundary,
        attention_distillation,
        boundary_supporting_samples,
        domain_confusion,
        equal_interval,
        factor_transfer,
        feature_distillation,
        hidden_state_distillation,
        joint_adaptation,
        knowledge_distillation,
        measure_quality,
        minilm,
        mutual_learning,
        one_for_all,
        route_constrained,
        synthesize,
        vitkd,
    )
    from hf_abkd.models.processors import load_processor
    from hf_abkd.models.smaller.from_teacher import student_from_teacher
    from hf_abkd.models.student import load_student
    from hf_abkd.models.teacher import load_teacher
    from hf_abkd.objectives import (
        ActivationBoundary,
        AdaptiveTargetEnhancement,
        AttentionDistillation,
        AttentionTransfer,
        CenteredLogits,
        ContrastiveRepresentationDistillation,
        CorrelationCongruence,
        CrossEntropy,
        DecoupledKnowledgeDistillation,
        DeepSelfAttentionDistillation,
        DomainClassification,
        FactorTransfer,
        FeatureCorrelation,
        FeatureDistance,
        FlowOfSolutionProcedure,
        HiddenStates,
        Hint,
        InterChannelCorrelation,
        KnowledgeDistillation,
        KnowledgeReview,
        LogitStandardization,
        MaskedGenerativeDistillation,
        MaskedTokenGeneration,
        MaximumMeanDiscrepancy,
        MultiLevelLogitDistillation,
        NeuronSelectivityTransfer,
        Objective,
        OverhaulDistillation,
        PrimeAwareAdaptiveDistillation,
        ProbabilisticKnowledgeTransfer,
        RelationalAngle,
        RelationalDistance,
        SelfAttentionRelationDistillation,
        SimilarityPreserving,
        SimpleRecipeDistillation,
        SingularVectorDistillation,
        StrongerTeacher,
        TeacherFreeRegularization,
        VariationalInformationDistillation,
    )
    from hf_abkd.recipes.recipe import Recipe
    from hf_abkd.reports import metrics
    from hf_abkd.reports.evaluation_text import run_text
    from hf_abkd.reports.metrics import classification_metrics
    from hf_abkd.stages import schedules
    from hf_abkd.stages.arguments import DistillationArguments
    from hf_abkd.stages.stage import Stage
    from hf_abkd.stages.term import PairedTerms, Term
    from hf_abkd.teachers.cache.settings import CacheSettings
    from hf_abkd.teachers.cache.teacher_cache import TeacherCache
    from hf_abkd.teachers.cache.writing import write_cache
    from hf_abkd.teachers.ensemble import TeacherEnsemble
    from hf_abkd.teachers.mean_source import MeanTeacher
    from hf_abkd.teachers.route.anchors import anchors_in, fetch_anchors
    from hf_abkd.teachers.route.recorder import RouteRecorder
    from hf_abkd.teachers.route.route import TeacherRoute
    from hf_abkd.training.trainer import DistillationTrainer

__all__ = [
    "ActivationBoundary",
    "AdaptiveDeepInversion",
    "AdaptiveTargetEnhancement",
    "AttentionDistillation",
    "AttentionTransfer",
    "BoundaryAttack",
    "BoundarySamples",
    "CacheSettings",
    "CenteredLogits",
    "ContrastiveRepresentationDistillation",
    "CorrelationCongruence",
    "CrossEntropy",
    "DataArguments",
    "DecoupledKnowledgeDistillation",
    "DeepInversion",
    "DeepSelfAttentionDistillation",
    "DistillationArguments",
    "DistillationTrainer",
    "DomainClassification",
    "FactorTransfer",
    "FeatureCorrelation",
    "FeatureDistance",
    "FlowOfSolutionProcedure",
    "GreedyRoute",
    "HiddenStates",
    "Hint",
    "ImageTransform",
    "InterChannelCorrelation",
    "KnowledgeDistillation",
    "KnowledgeReview",
    "LayerPair",
    "LogitStandardization",
    "MaskedGenerativeDistillation",
    "MaskedTokenGeneration",
    "MaximumMeanDiscrepancy",
    "MeanTeacher",
    "MultiLevelLogitDistillation",
    "NeuronSelectivityTransfer",
    "Objective",
    "OverhaulDistillation",
    "PairedDomains",
    "PairedTerms",
    "PixelCache",
    "Plan",
    "PrimeAwareAdaptiveDistillation",
    "ProbabilisticKnowledgeTransfer",
    "Recipe",
    "RelationalAngle",
    "RelationalDistance",
    "RouteRecorder",
    "SelfAttentionRelationDistillation",
    "SimilarityPreserving",
    "SimpleRecipeDistillation",
    "SingularVectorDistillation",
    "Stage",
    "StrongerTeacher",
    "TeacherCache",
    "TeacherEnsemble",
    "TeacherFreeRegularization",
    "TeacherRoute",
    "Term",
    "VariationalInformationDistillation",
    "__version__",
    "activation_boundary",
    "anchors_in",
    "attention_distillation",
    "augment",
    "boundary_supporting_samples",
    "classification_metrics",
    "domain_confusion",
    "equal_interval",
    "export_student",
    "factor_transfer",
    "feature_distillation",
    "fetch_anchors",
    "hidden_state_distillation",
    "joint_adaptation",
    "knowledge_distillation",
    "load_image_datasets",
    "load_processor",
    "load_student",
    "load_teacher",
    "measure_quality",
    "methods",
    "metrics",
    "minilm",
    "mutual_learning",
    "objectives",
    "one_for_all",
    "prepare",
    "route_constrained",
    "run_text",
    "schedules",
    "student_from_teacher",
    "synthesize",
    "vitkd",
    "write_cache",
    "write_pixels",
]

# Where each name is: "module:name", or "module" for a namespace. Methods are taken from `hf_abkd.methods`, which says
# of a name that is both a function and a module there that it is the function.
_HOMES = {
    "ActivationBoundary": "hf_abkd.objectives:ActivationBoundary",
    "AdaptiveDeepInversion": "hf_abkd.methods:AdaptiveDeepInversion",
    "AdaptiveTargetEnhancement": "hf_abkd.objectives:AdaptiveTargetEnhancement",
    "AttentionDistillation": "hf_abkd.objectives:AttentionDistillation",
    "AttentionTransfer": "hf_abkd.objectives:AttentionTransfer",
    "BoundaryAttack": "hf_abkd.methods:BoundaryAttack",
    "BoundarySamples": "hf_abkd.methods:BoundarySamples",
    "CacheSettings": "hf_abkd.teachers.cache.settings:CacheSettings",
    "CenteredLogits": "hf_abkd.objectives:CenteredLogits",
    "CorrelationCongruence": "hf_abkd.objectives:CorrelationCongruence",
    "ContrastiveRepresentationDistillation": "hf_abkd.objectives:ContrastiveRepresentationDistillation",
    "CrossEntropy": "hf_abkd.objectives:CrossEntropy",
    "DataArguments": "hf_abkd.data.arguments:DataArguments",
    "DecoupledKnowledgeDistillation": "hf_abkd.objectives:DecoupledKnowledgeDistillation",
    "DeepInversion": "hf_abkd.methods:DeepInversion",
    "DeepSelfAttentionDistillation": "hf_abkd.objectives:DeepSelfAttentionDistillation",
    "DistillationArguments": "hf_abkd.stages.arguments:DistillationArguments",
    "DistillationTrainer": "hf_abkd.training.trainer:DistillationTrainer",
    "DomainClassification": "hf_abkd.objectives:DomainClassification",
    "FactorTransfer": "hf_abkd.objectives:FactorTransfer",
    "FeatureCorrelation": "hf_abkd.objectives:FeatureCorrelation",
    "FeatureDistance": "hf_abkd.objectives:FeatureDistance",
    "FlowOfSolutionProcedure": "hf_abkd.objectives:FlowOfSolutionProcedure",
    "GreedyRoute": "hf_abkd.methods:GreedyRoute",
    "HiddenStates": "hf_abkd.objectives:HiddenStates",
    "Hint": "hf_abkd.objectives:Hint",
    "ImageTransform": "hf_abkd.data.transform:ImageTransform",
    "InterChannelCorrelation": "hf_abkd.objectives:InterChannelCorrelation",
    "KnowledgeDistillation": "hf_abkd.objectives:KnowledgeDistillation",
    "KnowledgeReview": "hf_abkd.objectives:KnowledgeReview",
    "LayerPair": "hf_abkd.layers.layer_pair:LayerPair",
    "LogitStandardization": "hf_abkd.objectives:LogitStandardization",
    "MaskedGenerativeDistillation": "hf_abkd.objectives:MaskedGenerativeDistillation",
    "MaskedTokenGeneration": "hf_abkd.objectives:MaskedTokenGeneration",
    "MaximumMeanDiscrepancy": "hf_abkd.objectives:MaximumMeanDiscrepancy",
    "MeanTeacher": "hf_abkd.teachers.mean_source:MeanTeacher",
    "MultiLevelLogitDistillation": "hf_abkd.objectives:MultiLevelLogitDistillation",
    "NeuronSelectivityTransfer": "hf_abkd.objectives:NeuronSelectivityTransfer",
    "Objective": "hf_abkd.objectives:Objective",
    "OverhaulDistillation": "hf_abkd.objectives:OverhaulDistillation",
    "PairedDomains": "hf_abkd.data.paired_domains:PairedDomains",
    "PairedTerms": "hf_abkd.stages.term:PairedTerms",
    "PixelCache": "hf_abkd.data.pixel_cache.pixel_cache:PixelCache",
    "Plan": "hf_abkd.layers.plan:Plan",
    "PrimeAwareAdaptiveDistillation": "hf_abkd.objectives:PrimeAwareAdaptiveDistillation",
    "ProbabilisticKnowledgeTransfer": "hf_abkd.objectives:ProbabilisticKnowledgeTransfer",
    "Recipe": "hf_abkd.recipes.recipe:Recipe",
    "RelationalAngle": "hf_abkd.objectives:RelationalAngle",
    "RelationalDistance": "hf_abkd.objectives:RelationalDistance",
    "RouteRecorder": "hf_abkd.teachers.route.recorder:RouteRecorder",
    "SelfAttentionRelationDistillation": "hf_abkd.objectives:SelfAttentionRelationDistillation",
    "SimilarityPreserving": "hf_abkd.objectives:SimilarityPreserving",
    "SimpleRecipeDistillation": "hf_abkd.objectives:SimpleRecipeDistillation",
    "SingularVectorDistillation": "hf_abkd.objectives:SingularVectorDistillation",
    "Stage": "hf_abkd.stages.stage:Stage",
    "StrongerTeacher": "hf_abkd.objectives:StrongerTeacher",
    "TeacherCache": "hf_abkd.teachers.cache.teacher_cache:TeacherCache",
    "TeacherFreeRegularization": "hf_abkd.objectives:TeacherFreeRegularization",
    "TeacherEnsemble": "hf_abkd.teachers.ensemble:TeacherEnsemble",
    "TeacherRoute": "hf_abkd.teachers.route.route:TeacherRoute",
    "Term": "hf_abkd.stages.term:Term",
    "VariationalInformationDistillation": "hf_abkd.objectives:VariationalInformationDistillation",
    "activation_boundary": "hf_abkd.methods:activation_boundary",
    "anchors_in": "hf_abkd.teachers.route.anchors:anchors_in",
    "attention_distillation": "hf_abkd.methods:attention_distillation",
    "augment": "hf_abkd.data.augment",
    "boundary_supporting_samples": "hf_abkd.methods:boundary_supporting_samples",
    "classification_metrics": "hf_abkd.reports.metrics:classification_metrics",
    "domain_confusion": "hf_abkd.methods:domain_confusion",
    "equal_interval": "hf_abkd.methods:equal_interval",
    "export_student": "hf_abkd.export.exporting:export_student",
    "feature_distillation": "hf_abkd.methods:feature_distillation",
    "factor_transfer": "hf_abkd.methods:factor_transfer",
    "fetch_anchors": "hf_abkd.teachers.route.anchors:fetch_anchors",
    "hidden_state_distillation": "hf_abkd.methods:hidden_state_distillation",
    "joint_adaptation": "hf_abkd.methods:joint_adaptation",
    "knowledge_distillation": "hf_abkd.methods:knowledge_distillation",
    "load_image_datasets": "hf_abkd.data.loading:load_image_datasets",
    "load_processor": "hf_abkd.models.processors:load_processor",
    "load_student": "hf_abkd.models.student:load_student",
    "load_teacher": "hf_abkd.models.teacher:load_teacher",
    "measure_quality": "hf_abkd.methods:measure_quality",
    "methods": "hf_abkd.methods",
    "metrics": "hf_abkd.reports.metrics",
    "mutual_learning": "hf_abkd.methods:mutual_learning",
    "minilm": "hf_abkd.methods:minilm",
    "objectives": "hf_abkd.objectives",
    "one_for_all": "hf_abkd.methods:one_for_all",
    "prepare": "hf_abkd.data.transform:prepare",
    "route_constrained": "hf_abkd.methods:route_constrained",
    "run_text": "hf_abkd.reports.evaluation_text:run_text",
    "schedules": "hf_abkd.stages.schedules",
    "student_from_teacher": "hf_abkd.models.smaller.from_teacher:student_from_teacher",
    "synthesize": "hf_abkd.methods:synthesize",
    "vitkd": "hf_abkd.methods:vitkd",
    "write_cache": "hf_abkd.teachers.cache.writing:write_cache",
    "write_pixels": "hf_abkd.data.pixel_cache.writing:write_pixels",
}

# Type checkers would take any name for one of the package if they saw the function.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Load a name of the package when it is first used."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        module, _, attribute = _HOMES[name].partition(":")
        value = import_module(module)
        if attribute:
            value = getattr(value, attribute)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        """Return the names of the module, those that are not loaded too."""
        return sorted({*globals(), *__all__})
