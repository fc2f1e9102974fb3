"""Accuracy against cost."""

import itertools

import pytest

from hf_abkd.reports.figures.trade_off import Candidate, pareto_front, trade_off


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([(1, 80), (9, 90), (9, 70)], [(1, 80), (9, 90)]),
        ([(1, 80), (1, 85), (2, 85)], [(1, 85)]),
        ([(5, 50)], [(5, 50)]),
        ([(3, 70), (2, 60), (1, 65)], [(1, 65), (3, 70)]),
    ],
)
def test_the_front_has_what_nothing_beats_in_both(points, front):
    """A model on the front that another one beats would be shipped for no reason."""
    for order in itertools.permutations(points):
        found = pareto_front([Candidate("a", *point) for point in order])
        assert [(one.cost, one.accuracy) for one in found] == front


def test_every_model_is_a_mark_and_the_front_is_drawn():
    """A run that is left out may be the best one."""
    runs = [Candidate("small", 1.0, 80.0), Candidate("small", 1.0, 79.0), Candidate("teacher", 50.0, 90.0)]
    (axes,) = trade_off(runs, "parameters (millions)").axes
    front, *marks = axes.lines
    assert (list(front.get_xdata()), list(front.get_ydata())) == ([1.0, 50.0], [80.0, 90.0])
    points = [point for line in marks for point in zip(line.get_xdata(), line.get_ydata(), strict=True)]
    assert points == [(one.cost, one.accuracy) for one in runs]
    assert axes.get_xlabel() == "parameters (millions)" and axes.get_xscale() == "log"


def test_no_model_is_no_picture():
    """An empty field looks like a measurement."""
    with pytest.raises(ValueError, match="no model"):
        trade_off([], "parameters")
