"""Patterns of channels, against a slow loop over all pairs."""

import itertools
import math

import pytest
import torch

from hf_abkd.objectives import NeuronSelectivityTransfer


def maps(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def patterns(sample):
    rows = [channel.flatten().tolist() for channel in sample]
    return [[value / math.sqrt(sum(one**2 for one in row)) for value in row] for row in rows]


def mean_kernel(first, second):
    values = [sum(a * b for a, b in zip(x, y, strict=True)) ** 2 for x, y in itertools.product(first, second)]
    return sum(values) / len(values)


def by_hand(student, teacher):
    total = 0.0
    for ours, theirs in zip(map(patterns, student), map(patterns, teacher), strict=True):
        total += mean_kernel(ours, ours) + mean_kernel(theirs, theirs) - 2 * mean_kernel(ours, theirs)
    return total / len(student)


@pytest.mark.parametrize(("channels", "grid"), [((2, 4), (3, 2)), ((2, 3), (2, 2)), ((5, 9), (2, 2))])
def test_value_is_that_of_the_paper(channels, grid):
    """Both ways to compute it, over positions and over channels, are one number."""
    student, teacher = maps(3, channels[0], *grid), maps(3, channels[1], *grid, seed=1)
    assert NeuronSelectivityTransfer()(student, teacher).item() == pytest.approx(by_hand(student, teacher), rel=1e-9)


def test_the_order_and_the_scale_of_channels_do_not_matter():
    """It compares two sets of patterns, and not channel with channel."""
    student = maps(2, 4, 3, 3)
    scale = torch.tensor([1.0, 2.0, 3.0, 0.5])[:, None, None]
    assert NeuronSelectivityTransfer()(student, (student * scale).flip(1)).item() == pytest.approx(0.0, abs=1e-12)


def test_the_finer_map_is_averaged_to_the_coarser():
    """Other grids are what two families have."""
    student, teacher = maps(2, 3, 4, 4), maps(2, 4, 2, 2, seed=1)
    expected = by_hand(torch.nn.functional.avg_pool2d(student, 2), teacher)
    assert NeuronSelectivityTransfer()(student, teacher).item() == pytest.approx(expected)


def test_a_silent_channel_has_a_finite_gradient():
    """A dead ReLU has no pattern; dividing by its norm would end the training."""
    student = torch.zeros(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    NeuronSelectivityTransfer()(student, maps(2, 3, 2, 2)).backward()
    assert student.grad.isfinite().all()
