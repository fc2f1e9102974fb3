"""Hints, against a slow loop, and behind the connector that a term gets."""

import pytest
import torch

from hf_abkd.layers.connection import Side
from hf_abkd.objectives import ActivationBoundary, Hint


def maps(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(student, teacher):
    """The sum of the squares of a sample, averaged over samples."""
    total = 0.0
    for ours, theirs in zip(student, teacher, strict=True):
        for one, other in zip(ours.flatten().tolist(), theirs.flatten().tolist(), strict=True):
            total += (one - other) ** 2
    return total / len(student)


def test_value_is_that_of_the_paper():
    """A mean where a sum is meant is another weight for every size of a layer."""
    student, teacher = maps(3, 2, 3, 2), maps(3, 2, 3, 2, seed=1)
    expected = by_hand(student, teacher)
    assert Hint(reduction="sum")(student, teacher).item() == pytest.approx(expected)
    assert Hint()(student, teacher).item() == pytest.approx(expected / 12)


def test_equal_responses_are_worth_nothing_and_one_that_differs_counts_in_the_mean():
    """The mean goes over samples, channels and positions alike."""
    student = maps(2, 2, 2, 2)
    assert Hint()(student, student) == 0
    teacher = student.clone()
    teacher[1, 0, 1, 1] += 4
    assert Hint()(student, teacher).item() == pytest.approx(1.0)


def test_published_weights_go_with_the_reduction():
    """Half the sum over a sample is the paper's; 100 belongs to the mean."""
    assert (Hint().published_weight, Hint(reduction="sum").published_weight) == (100.0, 0.5)
    assert ActivationBoundary().published_weight == 1.0


def test_other_shapes_meet_behind_a_regressor():
    """Channels and grids of two families are never equal by chance."""
    connected = Hint().connect([Side((2, 3, 4, 4))], [Side((2, 5, 2, 2))], "auto")
    assert connected.connector(torch.rand(2, 3, 4, 4)).shape == (2, 5, 2, 2) and connected.parameters > 0


def test_an_unknown_reduction_is_refused():
    """A typing error would train with another weight."""
    with pytest.raises(ValueError, match=r"reduction must be one of \['mean', 'sum'\], got 'summ'"):
        Hint(reduction="summ")
