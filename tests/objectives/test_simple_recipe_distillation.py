"""Normalised features by the logarithm of a sum, against a slow loop."""

import math

import pytest
import torch

from hf_abkd.layers.connection import Side
from hf_abkd.objectives import SimpleRecipeDistillation


def features(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def normalized(rows):
    columns = []
    for column in zip(*rows.tolist(), strict=True):
        mean = sum(column) / len(column)
        variance = sum((value - mean) ** 2 for value in column) / len(column)
        columns.append([(value - mean) / math.sqrt(variance + 1e-4) for value in column])
    return columns


@pytest.mark.parametrize("power", [4.0, 1.0])
def test_value_is_that_of_the_authors_code(power):
    """The logarithm of a mean, or normalised over features, is another loss."""
    student, teacher = features(5, 3), features(5, 3, seed=1)
    columns = zip(normalized(student), normalized(teacher), strict=True)
    total = sum(abs(a - b) ** power for one, other in columns for a, b in zip(one, other, strict=True))
    value = SimpleRecipeDistillation(power=power)(student, teacher)
    assert value.item() == pytest.approx(math.log(total), rel=1e-10)


def test_normalisation_is_that_of_batch_norm():
    """The authors have a BatchNorm without weights on both sides."""
    student, teacher = features(5, 3), features(5, 3, seed=1)
    norm = torch.nn.BatchNorm1d(3, eps=1e-4, affine=False).double()
    expected = (norm(student) - norm(teacher)).abs().pow(4).sum().log()
    torch.testing.assert_close(SimpleRecipeDistillation()(student, teacher), expected)


def test_equal_features_and_one_sample_are_finite():
    """The logarithm of 0 is where training ends."""
    for samples in (1, 4):
        student = features(samples, 3).requires_grad_()
        value = SimpleRecipeDistillation()(student, student.detach().clone())
        value.backward()
        assert value.item() == pytest.approx(math.log(1e-12)) and student.grad.abs().sum() == 0


def test_the_projector_is_there_whatever_the_widths():
    """It is what the paper is about."""
    objective = SimpleRecipeDistillation()
    assert objective.connect([Side((2, 3))], [Side((2, 3))], "auto").parameters == 3 * 3 + 3
    connected = objective.connect([Side((2, 3, 4, 4))], [Side((2, 5))], "auto")
    assert connected.connector(torch.rand(2, 3, 4, 4)).shape == (2, 5)
    with pytest.raises(ValueError, match="power must be .* at least 1"):
        SimpleRecipeDistillation(power=0.5)
