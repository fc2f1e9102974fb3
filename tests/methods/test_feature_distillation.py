"""Feature distillation: its one stage, and that every objective on features finds its layers in models of any kind."""

import numpy as np
import pytest
import tiny
import traced
from tiny_runs import LEAN, entries

from hf_abkd import DistillationTrainer, PairedTerms, Stage, feature_distillation
from hf_abkd.layers.plan import Plan
from hf_abkd.objectives import (
    OBJECTIVES,
    AttentionDistillation,
    AttentionTransfer,
    CrossEntropy,
    FlowOfSolutionProcedure,
    Hint,
    KnowledgeReview,
    RelationalDistance,
    SimilarityPreserving,
)

FEATURES = [
    "attention_transfer",
    "correlation_congruence",
    "feature_correlation",
    "feature_distance",
    "flow_of_solution_procedure",
    "hidden_states",
    "hint",
    "inter_channel_correlation",
    "knowledge_review",
    "masked_generative_distillation",
    "neuron_selectivity_transfer",
    "prime_aware_adaptive_distillation",
    "probabilistic_knowledge_transfer",
    "relational_angle",
    "relational_distance",
    "similarity_preserving",
    "simple_recipe_distillation",
    "singular_vector_distillation",
    "variational_information_distillation",
]


# ---- The stage ----


def test_it_is_one_stage_with_the_published_weight():
    """A weight of another reduction is another method."""
    [stage] = feature_distillation(Hint(), [("a", "b"), ("c", "d")], layer_weights=[1, 0.5])
    assert [term.weight for term in stage.terms] == [100.0, 50.0, 1.0]
    [stage] = feature_distillation(Hint(reduction="sum"), [("a", "b")], logits_weight=0.9, label_weight=0.0)
    assert [(type(term.objective).__name__, term.weight) for term in stage.terms] == [
        ("Hint", 0.5),
        ("KnowledgeDistillation", 0.9),
    ]
    [stage] = feature_distillation(AttentionTransfer(), weight=3.0)
    paired, labels = stage.terms
    assert isinstance(paired, PairedTerms) and paired.weight == 3.0 and isinstance(labels.objective, CrossEntropy)
    plan = Plan.of_names([("a", "b")], [0.5])
    assert [term.weight for term in feature_distillation(AttentionTransfer(), plan)[0].terms] == [500.0, 1.0]


def test_what_is_no_pair_of_layers_is_refused():
    """Before any model is loaded, and by the name of what is wrong."""
    with pytest.raises(TypeError, match="AttentionDistillation compares several layers at once"):
        feature_distillation(AttentionDistillation())
    with pytest.raises(ValueError, match=r"pairs must be one of \['neighbours'\], got 'all'"):
        feature_distillation(FlowOfSolutionProcedure(), pairs="all")
    with pytest.raises(TypeError, match="needs an objective that compares with a teacher, got CrossEntropy"):
        feature_distillation(CrossEntropy())
    with pytest.raises(TypeError, match="needs an objective that compares with a teacher, got 'hint'"):
        feature_distillation("hint")
    with pytest.raises(ValueError, match="a plan says which layers are paired; leave pairs='last' out"):
        feature_distillation(Hint(), [("a", "b")], pairs="last")
    with pytest.raises(ValueError, match=r"pairs must be one of \['all', 'last', 'head'\], got 'first'"):
        feature_distillation(Hint(), pairs="first")
    with pytest.raises(ValueError, match="layer_weights belong to named layers"):
        feature_distillation(Hint(), layer_weights=[1.0])


def test_an_objective_says_which_layers_it_is_for():
    """Relations are published on the features in front of the classifier, and attention on every stage."""
    plan, heads = Plan.of_names([("a", "b"), ("c", "d")]), Plan.of_names([("e:input", "f:input")])

    def layers(objective, **settings):
        terms = PairedTerms(objective, **settings).proposed(lambda: plan, lambda: heads)
        return [term.student for term in terms]

    assert layers(AttentionTransfer()) == ["a", "c"]
    assert layers(SimilarityPreserving()) == ["c"]
    assert layers(RelationalDistance()) == ["e:input"]
    assert layers(RelationalDistance(), pairs="last") == ["c"]
    assert layers(RelationalDistance(), plan=plan) == ["a", "c"]


def test_neighbours_are_compared_two_by_two():
    """A layer that is compared with itself, or with one of the other model, flows nowhere."""
    flow = FlowOfSolutionProcedure()
    *terms, _ = feature_distillation(flow, [("a", "b"), ("c", "d"), ("e", "f")], weight=2.0)[0].terms
    assert [(term.student, term.teacher) for term in terms] == [(("a", "c"), ("b", "d")), (("c", "e"), ("d", "f"))]
    assert [term.weight for term in terms] == [2.0, 2.0] and len({term.name for term in terms}) == 2
    with pytest.raises(ValueError, match="there is one pair of layers alone, 'a' and 'b'; name more"):
        feature_distillation(flow, [("a", "b")])
    with pytest.raises(ValueError, match="connects and weighs them itself"):
        feature_distillation(flow, [("a", "b"), ("c", "d")], layer_weights=[1.0, 0.5])


def test_an_objective_of_all_layers_has_one_term():
    """A term for each layer would review nothing."""
    plan = Plan.of_names([("a", "b"), ("c", "d")])
    review, labels = feature_distillation(KnowledgeReview(), plan, weight=2.0)[0].terms
    assert (review.student, review.teacher, review.weight) == (("a", "c"), ("b", "d"), 2.0)
    assert review.name == "knowledge_review/a, c" and isinstance(labels.objective, CrossEntropy)
    with pytest.raises(ValueError, match="compares the layers of a plan at once, and connects and weighs them itself"):
        feature_distillation(KnowledgeReview(), Plan.of_names([("a", "b")], [0.5]))


# ---- Models ----


KINDS = {"cnn": "resnet", "transformer": "vit", "hybrid": "mobilevit"}


def rows():
    return [{"pixel_values": image, "labels": place % 2} for place, image in enumerate(traced.images(count=8))]


def of(names):
    """The stage of several objectives, as one pass of two models serves all."""
    terms = [PairedTerms(OBJECTIVES[name]()) for name in names]
    return [Stage([*terms, *feature_distillation(Hint(), [("a", "b")])[0].terms[1:]], name="all")]


def trained(folder, student, teacher, names, **settings):
    student, teacher = (traced.fresh(KINDS[kind], seed) for kind, seed in ((student, 0), (teacher, 1)))
    trainer = DistillationTrainer(
        student,
        tiny.arguments(folder, **{"max_steps": 2, "logging_steps": 1, "learning_rate": 1e-3, **LEAN, **settings}),
        teacher=teacher,
        stages=of(names),
        train_dataset=rows(),
    )
    before = tiny.tensors(trainer.model)
    trainer.train()
    return trainer, before


# Responses before an activation and those behind it are not read of one layer in one stage.
@pytest.mark.parametrize("names", [FEATURES, ["overhaul_distillation"]])
@pytest.mark.parametrize(("student", "teacher"), [("cnn", "transformer"), ("transformer", "hybrid"), ("hybrid", "cnn")])
def test_every_objective_finds_its_layers(tmp_path, student, teacher, names):
    """Two models are all that a user should need, for any objective; one that stands for nothing trains nothing."""
    trainer, before = trained(tmp_path, student, teacher, names)
    terms = trainer.stages[0].terms
    for name in names:
        of_objective = [term for term in terms if term.name.startswith(f"{name}/")]
        expected = 2 if (OBJECTIVES[name].layers, OBJECTIVES[name].pairs) == (1, "all") else 1
        assert len(of_objective) >= expected, name
        for term in of_objective:
            values = entries(trainer, term.name)
            assert len(values) == 2 and np.isfinite(values).all() and any(values), term.name
    assert tiny.differing(tiny.tensors(trainer.model), before)
