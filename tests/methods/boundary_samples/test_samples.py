"""The published loss of boundary supporting samples, as a stage."""

import pytest

from hf_abkd import CrossEntropy, KnowledgeDistillation
from hf_abkd.methods import BoundaryAttack, BoundarySamples, boundary_supporting_samples
from hf_abkd.stages.schedules import LinearUntil


def test_the_stage_has_the_published_weights():
    """a(e) = 1 + max(3 (1 - e), 0) and b(e) = max(2 (1 - 4/3 e), 0), at temperature 3 without its square."""
    (stage,) = boundary_supporting_samples()
    labels, base, boundary = stage.each_term()
    assert isinstance(labels.objective, CrossEntropy) and labels.rows == base.rows == "base"
    assert boundary.rows == "boundary" == stage.extension.group
    for term in (base, boundary):
        assert isinstance(term.objective, KnowledgeDistillation)
        assert (term.objective.temperature, term.objective.temperature_squared) == (3.0, False)
    for progress in (0, 0.1, 0.5, 0.74, 0.75, 0.76, 1):
        assert labels.weight_at(progress) == 1
        assert base.weight_at(progress) == pytest.approx(1 + max(3 * (1 - progress), 0))
        assert boundary.weight_at(progress) == pytest.approx(max(2 * (1 - 4 / 3 * progress), 0))
    # Exactly, so that nothing is moved in vain.
    assert boundary.weight_at(0.75) == boundary.weight_at(1) == 0
    assert "scale_invariant" in stage.describe()["extension"]


def test_settings_reach_the_stage_and_impossible_ones_are_refused():
    """A setting that is dropped changes what is trained without a word."""
    samples = BoundarySamples(BoundaryAttack(rule="published", steps=3), share=0.5, keep_failed=True)
    (stage,) = boundary_supporting_samples(
        temperature=5.0, weight=0.5, boundary_weight=0.25, label_weight=0, samples=samples
    )
    base, boundary = stage.each_term()
    assert (base.weight, boundary.weight, base.objective.temperature) == (0.5, 0.25, 5.0)
    assert stage.extension is samples
    assert repr(samples) == (
        "BoundarySamples(BoundaryAttack(rule='published', steps=3, step_size=0.3), share=0.5, keep_failed=True)"
    )
    for share in (0, 1.1):
        with pytest.raises(ValueError, match=r"share must be in \(0, 1\]"):
            BoundarySamples(share=share)
    with pytest.raises(ValueError, match="temperature must be positive"):
        boundary_supporting_samples(temperature=0)


def test_a_weight_that_ends_early_keeps_its_end():
    """Scaled, as terms of a plan are, it still ends where it did."""
    schedule = LinearUntil(start=2.0, end=0.5, until=0.25).times(2)
    assert [schedule(p) for p in (0, 0.125, 0.25, 1)] == [4.0, 2.5, 1.0, 1.0]
    for until in (0, 1.5):
        with pytest.raises(ValueError, match=r"until must be in \(0, 1\]"):
            LinearUntil(start=1.0, end=0.0, until=until)


def test_figures_are_those_of_all_batches_and_only_of_what_there_was():
    """A mean of means would count a batch with one sample as much as one with sixteen."""
    figures = BoundarySamples().summary([4, 20, 15, 3.0, 24, 15])
    assert figures == {
        "boundary_samples/reached": 0.75,
        "boundary_samples/gap": 0.2,
        "boundary_samples/passes": 6,
        "boundary_samples/per_batch": 3.75,
    }
    assert BoundarySamples().summary([0] * 6) == {}
    assert BoundarySamples().summary([2, 0, 0, 0, 0, 0]) == {
        "boundary_samples/passes": 0,
        "boundary_samples/per_batch": 0,
    }
