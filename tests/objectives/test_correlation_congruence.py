"""Correlations under a Gaussian kernel, against a slow loop."""

import math

import pytest
import torch

from hf_abkd.layers.connection import Side
from hf_abkd.objectives import CorrelationCongruence


def features(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kernel(rows, gamma, order):
    """exp(-2 gamma) times the series of exp(2 gamma x.y), of directions."""
    unit = [[value / math.sqrt(sum(v**2 for v in row)) for value in row] for row in rows.tolist()]
    result = []
    for one in unit:
        result.append([])
        for other in unit:
            product = sum(a * b for a, b in zip(one, other, strict=True))
            series = sum((2 * gamma * product) ** power / math.factorial(power) for power in range(order + 1))
            result[-1].append(math.exp(-2 * gamma) * series)
    return result


@pytest.mark.parametrize(("gamma", "order"), [(0.4, 2), (1.5, 4)])
def test_value_is_that_of_the_paper(gamma, order):
    """Distances of features that are not normalised, or a series that begins at 1, is another kernel."""
    student, teacher = features(4, 3), features(4, 6, seed=1)
    ours, theirs = kernel(student, gamma, order), kernel(teacher, gamma, order)
    expected = sum((ours[row][column] - theirs[row][column]) ** 2 for row in range(4) for column in range(4)) / 16
    value = CorrelationCongruence(gamma=gamma, order=order)(student, teacher)
    assert value.item() == pytest.approx(expected, rel=1e-10)


def test_a_long_series_is_the_gaussian_kernel():
    """The series is one of exp(-gamma |x - y|^2)."""
    student = torch.nn.functional.normalize(features(4, 3), dim=1)
    exact = (-0.4 * torch.cdist(student, student).square()).exp()
    torch.testing.assert_close(CorrelationCongruence(order=20)._kernel(student), exact)


def test_turned_and_scaled_features_are_worth_nothing_and_so_is_one_sample():
    """Only how samples go together counts."""
    student = features(4, 3)
    turn = torch.linalg.qr(features(3, 3, seed=2))[0]
    assert CorrelationCongruence()(student, 3 * student @ turn).item() == pytest.approx(0.0, abs=1e-12)
    assert CorrelationCongruence()(student[:1], features(1, 5)).item() == pytest.approx(0.0, abs=1e-12)


def test_maps_are_averaged_over_the_image():
    """The paper compares the features in front of the classifier."""
    connected = CorrelationCongruence().connect([Side((2, 3, 4, 4))], [Side((2, 5))], "auto")
    assert connected.connector(torch.ones(2, 3, 4, 4)).shape == (2, 3) and connected.parameters == 0
    assert CorrelationCongruence().connect([Side((2, 3, 4, 4))], [Side((2, 5))], "identity") is None


def test_impossible_settings_are_refused():
    """A series without the first power compares nothing."""
    with pytest.raises(ValueError, match="gamma must be positive"):
        CorrelationCongruence(gamma=0.0)
    with pytest.raises(ValueError, match="order must be a whole number, 1 or more, got 0"):
        CorrelationCongruence(order=0)
