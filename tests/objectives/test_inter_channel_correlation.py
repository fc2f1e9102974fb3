"""Correlations of channels, against a slow loop."""

import math

import pytest
import torch

from hf_abkd.layers.connection import Side
from hf_abkd.layers.layout import Layout
from hf_abkd.objectives import InterChannelCorrelation


def maps(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlations(sample):
    channels = [channel.flatten().tolist() for channel in sample]
    rows = [[sum(a * b for a, b in zip(one, other, strict=True)) for other in channels] for one in channels]
    return [[value / math.sqrt(sum(v**2 for v in row)) for value in row] for row in rows]


def test_value_is_that_of_the_authors_code_on_grids_of_any_size():
    """The grids may differ, and the weight belongs to the sum over the matrix divided by the channels."""
    student, teacher = maps(2, 3, 2, 4), maps(2, 3, 3, 3, seed=1)
    total = 0.0
    for ours, theirs in zip(map(correlations, student), map(correlations, teacher), strict=True):
        total += sum((ours[row][column] - theirs[row][column]) ** 2 for row in range(3) for column in range(3))
    assert InterChannelCorrelation()(student, teacher).item() == pytest.approx(total / 2 / 3)


def test_moved_and_scaled_responses_are_worth_nothing():
    """Where in the image channels respond together does not count."""
    student = maps(2, 3, 3, 3)
    assert InterChannelCorrelation()(student, 2 * student.flip(2)).item() == pytest.approx(0.0, abs=1e-12)


def test_a_silent_channel_has_a_finite_gradient():
    """A row of zeros has no norm to divide by."""
    student = torch.zeros(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    InterChannelCorrelation()(student, maps(2, 3, 2, 2)).backward()
    assert student.grad.isfinite().all()


def test_the_connection_brings_channels_and_leaves_grids():
    """Averaging the grid would change which channels respond together."""
    objective, tokens = InterChannelCorrelation(), Side((2, 5, 8), Layout("NLC", (2, 2), 1))
    wide = Side((2, 6, 4, 4))
    connected = objective.connect([tokens], [wide], "auto")
    assert connected.connector(torch.rand(2, 5, 8)).shape == (2, 6, 2, 2) and connected.parameters > 0
    assert objective.connect([wide], [wide], "auto").parameters == 0
    assert objective.connect([wide], [wide], "map").parameters > 0
    with pytest.raises(ValueError, match="equally many channels, got 8 of the student and 6 of the teacher"):
        objective.connect([tokens], [wide], "identity")
    with pytest.raises(ValueError, match=r"the teacher's tensor of shape \(7,\) lies on no grid"):
        objective.connect([wide], [Side((2, 7))], "auto")
    with pytest.raises(ValueError, match=r"got \(2, 3, 2, 2\) of the student and \(2, 4, 2, 2\) of the teacher"):
        objective(maps(2, 3, 2, 2), maps(2, 4, 2, 2))
