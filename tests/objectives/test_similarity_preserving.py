"""Similarities of samples, against a slow loop."""

import math

import pytest
import torch

from hf_abkd.layers.connection import Side
from hf_abkd.objectives import SimilarityPreserving


def tensor(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def similarities(responses):
    flat = [sample.flatten().tolist() for sample in responses]
    rows = [[sum(a * b for a, b in zip(one, other, strict=True)) for other in flat] for one in flat]
    return [[value / math.sqrt(sum(v**2 for v in row)) for value in row] for row in rows]


def by_hand(student, teacher):
    count, total = len(student), 0.0
    ours, theirs = similarities(student), similarities(teacher)
    for row in range(count):
        for column in range(count):
            total += (ours[row][column] - theirs[row][column]) ** 2
    return total / count**2


def test_value_is_that_of_the_paper():
    """Columns normalised in the place of rows, or a mean over another count, is another method."""
    student, teacher = tensor(4, 2, 3, 2), tensor(4, 7, seed=1)
    assert SimilarityPreserving()(student, teacher).item() == pytest.approx(by_hand(student, teacher))


def test_a_turned_and_scaled_space_is_worth_nothing():
    """Only what is alike counts, and neither width nor direction."""
    student = tensor(4, 3)
    turn = torch.linalg.qr(tensor(3, 3, seed=2))[0]
    assert SimilarityPreserving()(student, 3 * student @ turn).item() == pytest.approx(0.0, abs=1e-12)


def test_one_sample_is_worth_nothing():
    """The last batch of an epoch may hold one: its matrix is 1 for both."""
    student = tensor(1, 3).requires_grad_()
    value = SimilarityPreserving()(student, tensor(1, 5, seed=1))
    value.backward()
    assert value == 0 and student.grad.abs().max() < 1e-12


def test_equal_and_silent_samples_have_finite_gradients():
    """Rows of zeros have no norm to divide by."""
    student = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    SimilarityPreserving()(student, tensor(3, 4)).backward()
    assert student.grad.isfinite().all()


def test_layers_are_compared_as_they_are():
    """Any two widths and grids can be compared; a connector would train to no use."""
    sides = [Side((2, 3, 4, 4))], [Side((2, 5, 2, 2))]
    assert SimilarityPreserving().connect(*sides, "auto") is None
    assert SimilarityPreserving().connect(*sides, "map").parameters > 0
