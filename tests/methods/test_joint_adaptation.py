"""The published weights of the joint stage, and what its settings do."""

import math

import pytest

from hf_abkd.methods import domain_confusion, joint_adaptation
from hf_abkd.objectives import CrossEntropy, DomainClassification, KnowledgeDistillation, MaximumMeanDiscrepancy


def weights(stage, progress):
    return {term.name: term.weight_at(progress) for term in stage.all_terms()}


def test_the_stage_has_the_published_weights():
    """beta grows from 0.1 to 0.9 by a constant factor; gamma over the whole stage; the teacher has the rest."""
    (stage,) = joint_adaptation()
    for progress in (0, 0.25, 0.5, 1):
        beta = 0.1 * math.exp(math.log(9) * progress)
        gamma = 2 / (1 + math.exp(-10 * progress)) - 1
        assert weights(stage, progress) == pytest.approx(
            {
                "knowledge_distillation@target": beta,
                "knowledge_distillation@source": beta * 0.3,
                "cross_entropy@source": beta * 0.7,
                "teacher/cross_entropy": 1 - beta,
                "teacher/mmd": (1 - beta) * gamma,
            }
        )
    target, source, labels = stage.each_term()
    for term in (target, source):
        assert isinstance(term.objective, KnowledgeDistillation)
        assert (term.objective.temperature, term.objective.temperature_squared) == (20.0, True)
    assert isinstance(labels.objective, CrossEntropy) and labels.rows == "source"
    taught, confused = stage.teacher_terms
    assert isinstance(taught.objective, CrossEntropy) and taught.rows == "source"
    assert isinstance(confused.objective, MaximumMeanDiscrepancy) and confused.rows is None
    assert confused.student == "classifier:input" and confused.teacher is taught.teacher is None


def test_no_term_reads_labels_of_the_target():
    """One label of the target makes the adaptation a supervised training."""
    for settings in ({}, {"confusion": "gradient_reversal"}, {"alpha": 0}, {"alpha": 1}):
        (stage,) = joint_adaptation(**settings)
        assert all(term.rows == "source" for term in stage.all_terms() if "labels" in term.objective.needs)
    (stage,) = joint_adaptation(confusion="gradient_reversal")
    assert isinstance(stage.teacher_terms[1].objective, DomainClassification)
    assert isinstance(domain_confusion().objective, MaximumMeanDiscrepancy)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta_start": 0.0}, r"beta_start must be in \(0, 1\)"),
        ({"beta_end": 1.0}, r"beta_end must be in \(0, 1\)"),
        ({"beta_start": 0.9, "beta_end": 0.1}, "beta_start must be below beta_end"),
        ({"alpha": 1.5}, r"alpha must be in \[0, 1\]"),
        ({"temperature": 0}, "temperature must be positive"),
        ({"gamma_slope": 0}, "slope must be positive"),
        ({"confusion": "coral"}, "confusion must be 'mmd' or 'gradient_reversal', got 'coral'"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    """Each would train one of the two models away from its aim, or not at all."""
    with pytest.raises(ValueError, match=message):
        joint_adaptation(**settings)
