"""What is said of the weights of terms."""

import pytest

from hf_abkd.training.terms.term_advice import advise
from hf_abkd.training.terms.term_gradients import ratios


def test_balanced_terms_are_passed_over_in_silence():
    """A warning that comes up in sound runs is not read in the others."""
    for norms in ([1.0, 2.0], [1.0, 0.2], [5.0, 1.0, 0.5]):
        assert advise("abc"[: len(norms)], norms, [1.0] * len(norms)).messages == []


def test_dominating_term_is_told_with_weights_that_can_be_set():
    """`--kd_weight` sets both weights at once: one of them alone helps nobody there."""
    norms, weights = [20.0, 1.0], [0.9, 0.1]
    advice = advise(["kd", "labels"], norms, weights)
    assert advice.dominant.name == "kd" and len(advice.messages) == 1
    shared = advice.dominant.shared_weights
    assert sum(shared) == pytest.approx(1.0) and ratios(norms, shared) == pytest.approx([1.0, 1.0])
    assert "weights of 0.048 and 0.95 do so with the same sum" in advice.messages[0]


def test_a_term_without_a_gradient_is_told_and_nothing_is_balanced_against_it():
    """A student that equals its teacher got a weight of 1.89e-07 for its labels, and learnt nothing."""
    for rest in (2e-7, 0.0):
        advice = advise(["labels", "kd"], [1.0, rest], [0.1, 0.9])
        assert advice.dominant is None
        [message] = advice.messages
        assert "'kd' on the student is 0, but for rounding" in message and "the teacher itself" in message
    assert len(advise(["a", "b"], [0.0, 0.0], [1.0, 1.0]).messages) == 2


def test_a_term_of_no_weight_is_not_missed():
    """Its user has switched it off."""
    assert advise(["a", "b", "c"], [1.0, 0.0, 1.0], [1.0, 0.0, 1.0]).messages == []


def test_a_term_that_hardly_counts_is_told_with_the_weight_that_makes_it_count():
    """A ratio of 0.02 in the log says that a term is idle, and not what to do about it."""
    names, norms, weights = ["a", "b", "c"], [1.0, 2.0, 0.02], [1.0, 1.0, 2.0]
    advice = advise(names, norms, weights)
    [message] = advice.messages
    assert advice.dominant is None
    assert "'c' on the student is 0.02 times that of 'b'" in message and "a weight of 100 instead of 2" in message
    assert ratios(norms, [1.0, 1.0, 100.0])[2] == pytest.approx(1.0)
