"""Relative distances, against a slow loop, and where samples are equal."""

import math

import pytest
import torch

from hf_abkd.objectives import RelationalDistance


def features(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def distances(rows):
    rows = rows.tolist()
    found = [[math.dist(one, other) for other in rows] for one in rows]
    apart = [value for row in found for value in row if value > 0]
    return [[value / (sum(apart) / len(apart)) for value in row] for row in found]


def huber(difference):
    return difference**2 / 2 if abs(difference) < 1 else abs(difference) - 1 / 2


def by_hand(student, teacher):
    ours, theirs = distances(student), distances(teacher)
    values = [huber(a - b) for one, other in zip(ours, theirs, strict=True) for a, b in zip(one, other, strict=True)]
    return sum(values) / len(values)


def test_value_is_that_of_the_paper():
    """The mean goes over pairs that are apart; a student of one far sample reaches the linear part."""
    student, teacher = features(5, 3), features(5, 6, seed=1)
    student[0] *= 20
    assert RelationalDistance()(student, teacher).item() == pytest.approx(by_hand(student, teacher), rel=1e-10)


def test_moved_turned_and_scaled_features_are_worth_nothing():
    """Only the ratios of distances count."""
    student = features(4, 3)
    turn = torch.linalg.qr(features(3, 3, seed=2))[0]
    assert RelationalDistance()(student, 3 * student @ turn + 7).item() == pytest.approx(0.0, abs=1e-12)


def test_equal_samples_have_a_finite_gradient():
    """The root of 0 has none: a batch with an image twice, or a student that says the same of all, would be NaN."""
    student, teacher = features(4, 3), features(4, 3, seed=1)
    student[1] = student[0]
    teacher[3] = teacher[2]
    student.requires_grad_()
    value = RelationalDistance()(student, teacher)
    value.backward()
    assert value.item() == pytest.approx(by_hand(student.detach(), teacher))
    assert student.grad.isfinite().all() and student.grad.abs().sum() > 0
    collapsed = torch.ones(4, 3, requires_grad=True)
    RelationalDistance()(collapsed, teacher.float()).backward()
    assert collapsed.grad.isfinite().all()


def test_one_sample_is_worth_nothing():
    """It has no distance to any other."""
    student = features(1, 3).requires_grad_()
    value = RelationalDistance()(student, features(1, 5, seed=1))
    value.backward()
    assert value == 0 and student.grad.abs().sum() == 0
