"""The overhaul's partial distance against a slow loop, and its margin against samples of the distribution it is of."""

import math

import pytest
import torch
from torch import nn

from hf_abkd.layers.connection import Side
from hf_abkd.layers.connectors import AsMap, MapConnector
from hf_abkd.objectives import OverhaulDistillation
from hf_abkd.objectives.objective import Known
from hf_abkd.objectives.overhaul_distillation import mean_below_zero

SHAPE = (3, 4, 2, 5)


def case(seed=0):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (2 * torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(2))
    return student.requires_grad_(), teacher


def norm_of(weight, bias):
    norm = nn.BatchNorm2d(len(weight))
    with torch.no_grad():
        norm.weight.copy_(torch.tensor(weight))
        norm.bias.copy_(torch.tensor(bias))
    return norm


def begun(norm=None, **settings):
    objective = OverhaulDistillation(**settings)
    objective.begin(Known((SHAPE,), None, (norm,)))
    return objective.double()


def slow(student, teacher, margin):
    """The paper's partial distance to the teacher's response cut off at the margin, unit by unit; a sum."""
    total = 0.0
    for index in torch.cartesian_prod(*map(torch.arange, SHAPE)).tolist():
        s, t, m = student[tuple(index)].item(), teacher[tuple(index)].item(), margin[index[1]].item()
        t = max(t, m)
        total += 0.0 if s <= t <= 0 else (t - s) ** 2
    return total


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_value_is_that_of_the_paper(reduction):
    """With the mask of the student's or of the uncut teacher's sign, other units would count."""
    student, teacher = case()
    objective = begun(norm_of([1.0, 0.5, 2.0, 1.5], [0.3, -0.2, 1.0, -2.0]), reduction=reduction)
    expected = slow(student, teacher, objective.margin) / (math.prod(SHAPE) if reduction == "mean" else SHAPE[0])
    assert objective(student, teacher).item() == pytest.approx(expected, rel=1e-9)
    (gradient,) = torch.autograd.grad(objective(student, teacher), student)
    wanted = torch.maximum(teacher, objective.margin.view(-1, 1, 1))
    still = (student <= wanted) & (wanted <= 0)
    assert still.any() and not gradient[still].any() and (gradient[~still] != 0).all()


def test_the_margin_is_the_mean_of_the_negative_responses():
    """It is what the closed form is of: drawn responses must have it."""
    weight, bias = [1.0, -0.5, 2.0], [0.3, -0.2, 3.0]
    draws = torch.randn(400_000, 3, generator=torch.Generator().manual_seed(0))
    responses = draws * torch.tensor(weight) + torch.tensor(bias)
    drawn = [column[column < 0].mean().item() for column in responses.unbind(1)]
    assert mean_below_zero(norm_of(weight, bias)).tolist() == pytest.approx(drawn, rel=0.01)


def test_channels_without_negative_responses_or_without_spread_have_a_margin():
    """A probability that is rounded to 0, or a weight that was pruned, would make it infinite or no number."""
    margin = mean_below_zero(norm_of([1e-3, 0.0, 0.0, 1.0], [5.0, -2.0, 2.0, 30.0]))
    assert margin.isfinite().all() and (margin <= 0).all()
    assert margin[1:3].tolist() == [-2.0, 0.0]
    # Far out the distribution falls off so steeply that what is left lies at the cut.
    assert margin[3].item() == pytest.approx(-1 / 30, rel=0.01)
    plain = mean_below_zero(nn.BatchNorm2d(2, affine=False))
    assert plain.tolist() == pytest.approx([-math.sqrt(2 / math.pi)] * 2)


def test_without_a_batch_norm_the_margin_is_measured_in_training_alone():
    """Measured in an evaluation too, a resumed run would not be the one that never stopped."""
    objective = begun()
    batches = [case(seed)[1] for seed in range(3)]
    for teacher in batches[:2]:
        objective(teacher, teacher)
    seen = torch.cat(batches[:2]).transpose(0, 1).flatten(1)
    expected = torch.stack([channel[channel < 0].mean() for channel in seen])
    torch.testing.assert_close(objective.margin, expected)
    objective.eval()(batches[2], batches[2])
    torch.testing.assert_close(objective.margin, expected)


def test_a_batch_can_be_split_where_the_margin_is_known():
    """Gradient accumulation and several processes then leave it unchanged."""
    student, teacher = case()
    objective = begun(norm_of([1.0] * 4, [0.0] * 4))
    parts = [objective(student[row : row + 1], teacher[row : row + 1]) for row in range(3)]
    torch.testing.assert_close(objective(student, teacher), sum(parts) / 3)


def test_connection_is_the_published_one_and_maps_are_compared():
    """Channels that lie last would be given the margins of places."""
    objective = OverhaulDistillation()
    side = Side((2, 8, 4, 4))
    assert type(objective.connect([side], [side], "auto").connector) is MapConnector
    assert type(objective.connect([side], [side], "identity").target_form) is AsMap
    with pytest.raises(ValueError, match="'map' or 'identity', not by 'linear'"):
        objective.connect([side], [side], "linear")
    with pytest.raises(ValueError, match="no grid"):
        objective.connect([Side((2, 8))], [side], "auto")


def test_misuse_is_refused():
    """Without a margin it would be another loss."""
    with pytest.raises(ValueError, match="reduction must be 'mean' or 'sum'"):
        OverhaulDistillation(reduction="none")
    with pytest.raises(RuntimeError, match="no margin yet"):
        OverhaulDistillation()(*case())
