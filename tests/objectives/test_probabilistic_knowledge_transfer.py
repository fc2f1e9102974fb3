"""Neighbours among the other samples, against a slow loop."""

import math

import pytest
import torch

from hf_abkd.objectives import ProbabilisticKnowledgeTransfer


def features(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def probabilities(rows):
    """The share of each other sample in the similarities (1 + cosine) / 2."""
    rows, found = rows.tolist(), []
    for place, one in enumerate(rows):
        similar = []
        for other_place, other in enumerate(rows):
            norms = math.hypot(*one) * math.hypot(*other)
            product = sum(a * b for a, b in zip(one, other, strict=True))
            similar.append((1 + product / norms) / 2 if other_place != place else 0.0)
        found.append([value / sum(similar) for value in similar])
    return found


def test_value_is_that_of_the_paper():
    """A sample that counts as its own neighbour, as in public code, makes all differences smaller."""
    student, teacher = features(5, 3), features(5, 6, seed=1)
    ours, theirs = probabilities(student), probabilities(teacher)
    expected = sum(
        theirs[row][column] * math.log(theirs[row][column] / ours[row][column])
        for row in range(5)
        for column in range(5)
        if row != column
    )
    value = ProbabilisticKnowledgeTransfer()(student, teacher)
    assert value.item() == pytest.approx(expected / 25, rel=1e-4)


def test_turned_and_scaled_features_are_worth_nothing():
    """Only who is whose neighbour counts."""
    student = features(5, 3)
    turn = torch.linalg.qr(features(3, 3, seed=2))[0]
    assert ProbabilisticKnowledgeTransfer()(student, 3 * student @ turn).item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("samples", [1, 2])
def test_with_no_choice_of_neighbours_it_is_worth_nothing(samples):
    """The one other sample is the neighbour with probability 1, and one sample has none."""
    student = features(samples, 3).requires_grad_()
    value = ProbabilisticKnowledgeTransfer()(student, features(samples, 5, seed=1))
    value.backward()
    assert value.item() == pytest.approx(0.0, abs=1e-12) and student.grad.abs().max() < 1e-6


def test_opposite_and_silent_samples_have_finite_gradients():
    """The similarity of opposite features is 0, whose logarithm is not finite."""
    student = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]], requires_grad=True)
    value = ProbabilisticKnowledgeTransfer()(student, features(3, 4).float())
    value.backward()
    assert value.isfinite() and student.grad.isfinite().all()
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    ProbabilisticKnowledgeTransfer()(opposite, features(2, 4).float()).backward()
    assert opposite.grad.isfinite().all()
