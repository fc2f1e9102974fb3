"""Features under a variance of each, against a slow loop."""

import math

import pytest
import torch

from hf_abkd.layers.connection import Side
from hf_abkd.objectives import FeatureDistance, PrimeAwareAdaptiveDistillation
from hf_abkd.objectives.objective import Known


def features(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def begun(width, **settings):
    objective = PrimeAwareAdaptiveDistillation(**settings)
    objective.begin(Known(targets=((2, width),)))
    return objective


def with_weights(width=3):
    objective = begun(width).double()
    with torch.no_grad():
        objective.branch.weight.copy_(features(width, width, seed=5))
        objective.branch.bias.copy_(features(width, seed=6))
    return objective


def test_value_is_that_of_the_paper():
    """The variance of another feature, or without its logarithm, would be driven to infinity."""
    objective, student, teacher = with_weights(), features(4, 3), features(4, 3, seed=1)
    weight, bias, total = objective.branch.weight.tolist(), objective.branch.bias.tolist(), 0.0
    for ours, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        for row in range(3):
            logarithm = bias[row] + sum(weight[row][column] * ours[column] for column in range(3))
            total += (ours[row] - theirs[row]) ** 2 / (math.exp(logarithm) + 1e-6) + logarithm
    assert objective(student, teacher).item() == pytest.approx(total / 12, rel=1e-10)


def test_it_begins_as_the_plain_distance():
    """The paper trains by that first."""
    student, teacher = features(4, 3), features(4, 3, seed=1)
    objective = begun(3, eps=1e-12).double()
    torch.testing.assert_close(objective(student, teacher), FeatureDistance()(student, teacher))


def test_the_variance_learns_where_the_student_is_wrong():
    """It is the purpose: hard samples count less."""
    objective = begun(1)
    student, teacher = torch.tensor([[1.0], [-1.0]]), torch.tensor([[1.1], [4.0]])
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        objective(student, teacher).backward()
        optimizer.step()
    easy, hard = objective.branch(student).detach().exp().flatten().tolist()
    assert hard == pytest.approx(25.0, rel=0.2) and easy < 1


def test_the_width_is_that_of_the_teacher():
    """It is known when a term is connected, whatever connector it has."""
    objective = PrimeAwareAdaptiveDistillation()
    shown = repr(objective)
    with pytest.raises(RuntimeError, match="has not begun"):
        objective(torch.rand(2, 3), torch.rand(2, 3))
    connected = objective.connect([Side((2, 3, 4, 4))], [Side((2, 5))], "auto")
    objective.begin(Known(targets=((2, 5),)))
    assert objective(connected.connector(torch.rand(2, 3, 4, 4)), torch.rand(2, 5)).isfinite()
    # What a checkpoint says of a term must be the same before and after.
    assert repr(objective) == shown == "PrimeAwareAdaptiveDistillation(eps=1e-06)"
    with pytest.raises(ValueError, match="eps must be positive"):
        PrimeAwareAdaptiveDistillation(eps=0.0)
