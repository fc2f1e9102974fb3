"""Angles of triplets, against a slow loop, and where samples are equal."""

import math

import pytest
import torch

from hf_abkd.objectives import RelationalAngle


def features(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(rows, first, at, second):
    """The cosine of the angle at one sample between two others; 0 where there is no direction."""
    sides = [[a - b for a, b in zip(rows[other], rows[at], strict=True)] for other in (first, second)]
    norms = [math.sqrt(sum(value**2 for value in side)) for side in sides]
    return sum(a * b for a, b in zip(*sides, strict=True)) / math.prod(norms) if all(norms) else 0.0


def by_hand(student, teacher):
    ours, theirs, count, total = student.tolist(), teacher.tolist(), len(student), 0.0
    for first in range(count):
        for at in range(count):
            for second in range(count):
                difference = abs(cosine(ours, first, at, second) - cosine(theirs, first, at, second))
                total += difference**2 / 2 if difference < 1 else difference - 1 / 2
    return total / count**3


def test_value_is_that_of_the_paper():
    """The angle at another sample of the triplet is another number."""
    student, teacher = features(5, 2), features(5, 6, seed=1)
    assert RelationalAngle()(student, teacher).item() == pytest.approx(by_hand(student, teacher), rel=1e-10)


def test_moved_turned_and_scaled_features_are_worth_nothing():
    """Angles are all that counts."""
    student = features(4, 3)
    turn = torch.linalg.qr(features(3, 3, seed=2))[0]
    assert RelationalAngle()(student, 3 * student @ turn + 7).item() == pytest.approx(0.0, abs=1e-12)


def test_equal_samples_have_a_small_gradient_in_float32():
    """Divided by a tiny norm, what cancels on paper is noise of any size in float32."""
    student, teacher = features(4, 3).float(), features(4, 3, seed=1).float()
    student[1] = student[0]
    student.requires_grad_()
    value = RelationalAngle()(student, teacher)
    value.backward()
    assert value.item() == pytest.approx(by_hand(student.detach(), teacher), rel=1e-5)
    assert 0 < student.grad.abs().max() < 10
    collapsed = torch.ones(4, 3, requires_grad=True)
    RelationalAngle()(collapsed, teacher).backward()
    assert collapsed.grad.isfinite().all()


def test_one_sample_is_worth_nothing():
    """It forms no angle."""
    student = features(1, 3).requires_grad_()
    value = RelationalAngle()(student, features(1, 5, seed=1))
    value.backward()
    assert value == 0 and student.grad.abs().sum() == 0
