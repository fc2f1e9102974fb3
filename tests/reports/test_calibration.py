"""Whether a model is right as often as it says."""

import numpy as np
import pytest

from hf_abkd.reports.calibration import BINS, expected_calibration_error


def by_loop(confidences, right):
    """The definition of Guo et al., bin by bin: bin m of M is ((m - 1) / M, m / M]."""
    total = 0.0
    for number in range(1, BINS + 1):
        inside = [i for i, one in enumerate(confidences) if (number - 1) / BINS < one <= number / BINS]
        if inside:
            gap = np.mean([right[i] for i in inside]) - np.mean([confidences[i] for i in inside])
            total += len(inside) / len(confidences) * abs(gap)
    return total


def test_error_is_that_of_the_paper():
    """Another weighting of the bins cannot be compared with a published number."""
    generator = np.random.default_rng(0)
    confidences = generator.uniform(0.1, 1, 500)
    right = generator.uniform(size=500) < confidences**2
    found = expected_calibration_error(confidences, right)
    assert found == pytest.approx(by_loop(confidences, right)) and found > 0.05


def test_a_model_that_is_right_as_often_as_it_says_has_none():
    """Errors of one sign in a bin must not be told apart from noise that cancels out."""
    assert expected_calibration_error(np.full(10, 0.8), np.array([True] * 8 + [False] * 2)) == pytest.approx(0)
    assert expected_calibration_error(np.ones(4), np.zeros(4, bool)) == 1
    # A softmax in float32 may end above 1.
    assert expected_calibration_error(np.full(3, 1 + 1e-7, np.float32), np.ones(3, bool)) == pytest.approx(0, abs=1e-6)


def test_what_is_no_probability_is_refused():
    """Logits given in their place fall into the last bin and look like confidence."""
    for wrong in (np.array([3.2]), np.array([-0.1]), np.array([np.nan])):
        with pytest.raises(ValueError, match="probabilities"):
            expected_calibration_error(wrong, np.array([True]))
    with pytest.raises(ValueError, match="one answer"):
        expected_calibration_error(np.array([]), np.array([], bool))
