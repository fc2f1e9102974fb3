"""Attention maps, against slow loops of both published forms."""

import math

import pytest
import torch

from hf_abkd.layers.connection import Side
from hf_abkd.layers.layout import Layout
from hf_abkd.objectives import AttentionTransfer


def maps(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attention(sample, power):
    """The sum over channels of |response| ** power, position by position, over its norm."""
    rows, columns = sample.shape[1:]
    cells = [
        sum(abs(value) ** power for value in sample[:, row, column].tolist())
        for row in range(rows)
        for column in range(columns)
    ]
    norm = math.sqrt(sum(cell**2 for cell in cells))
    return [cell / norm for cell in cells]


def by_hand(student, teacher, reduction, power):
    total = 0.0
    for ours, theirs in zip(student, teacher, strict=True):
        pairs = list(zip(attention(ours, power), attention(theirs, power), strict=True))
        squares = sum((one - other) ** 2 for one, other in pairs)
        total += (squares if reduction == "mean" else math.sqrt(squares)) / len(pairs)
    return total / len(student)


@pytest.mark.parametrize("reduction", ["mean", "norm"])
@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
def test_value_is_that_of_the_paper_and_that_of_its_code(reduction, power):
    """The two differ by orders of magnitude: one with the weight of the other is no attention transfer."""
    student, teacher = maps(3, 2, 3, 2), maps(3, 4, 3, 2, seed=1)
    value = AttentionTransfer(reduction=reduction, power=power)(student, teacher)
    assert value.item() == pytest.approx(by_hand(student, teacher, reduction, power), rel=1e-10)


def test_the_finer_attention_is_averaged_to_the_coarser():
    """After the power, as the paper has it: the mean of squares is not the square of the mean."""
    student, teacher = maps(3, 2, 4, 4), maps(3, 4, 2, 2, seed=1)
    pooled = torch.nn.functional.avg_pool2d(student.square().mean(1, keepdim=True), 2).sqrt()
    expected = by_hand(pooled, teacher, "mean", 2.0)
    assert AttentionTransfer()(student, teacher).item() == pytest.approx(expected)
    assert AttentionTransfer()(teacher, student).item() == pytest.approx(expected)


@pytest.mark.parametrize("reduction", ["mean", "norm"])
def test_equal_maps_and_silent_ones_have_a_finite_gradient(reduction):
    """The root at 0, and the norm of a layer that does not respond, are where training ends in NaN."""
    objective = AttentionTransfer(reduction=reduction)
    student = maps(2, 2, 3, 3).requires_grad_()
    value = objective(student, 2 * student.detach().repeat(1, 3, 1, 1))
    value.backward()
    assert value.item() == pytest.approx(0.0, abs=1e-9) and student.grad.isfinite().all()
    silent = torch.zeros(2, 2, 3, 3, requires_grad=True)
    objective(silent, maps(2, 2, 3, 3)).backward()
    assert silent.grad.isfinite().all()


def test_tokens_are_compared_as_maps_and_what_lies_on_no_grid_is_refused():
    """A class token is no position of the image."""
    tokens = Side((2, 5, 8), Layout("NLC", (2, 2), 1))
    connected = AttentionTransfer().connect([tokens], [Side((2, 3, 4, 4))], "auto")
    assert connected.parameters == 0 and connected.connector(torch.rand(2, 5, 8)).shape == (2, 8, 2, 2)
    with pytest.raises(ValueError, match=r"the student's tensor of shape \(8,\) lies on no grid"):
        AttentionTransfer().connect([Side((2, 8))], [tokens], "auto")
    mapped = AttentionTransfer().connect([tokens], [Side((2, 3, 4, 4))], "map")
    assert mapped.connector(torch.rand(2, 5, 8)).shape == (2, 3, 4, 4) and mapped.parameters > 0
    with pytest.raises(ValueError, match=r"maps \(N, C, H, W\) are compared, got \(2, 5\) of the student"):
        AttentionTransfer()(torch.rand(2, 5), torch.rand(2, 5, 1, 1))


def test_impossible_settings_are_refused():
    """They would compare something else."""
    with pytest.raises(ValueError, match=r"reduction must be one of \['mean', 'norm'\], got 'sum'"):
        AttentionTransfer(reduction="sum")
    with pytest.raises(ValueError, match="power must be positive and finite, got 0"):
        AttentionTransfer(power=0)
