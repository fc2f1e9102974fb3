"""Bars of classes and layers."""

import pytest

from hf_abkd.reports.figures.bars import bars


def test_a_bar_is_the_mean_over_seeds_which_are_marked():
    """A mean over seeds that lie on both sides of 0 tells nothing, and looks as if it did."""
    values = {"teacher": [[-4.0], [1.0]], "alone": [[1.0, 3.0], [-1.0, 1.0]]}
    (axes,) = bars(["cat", "dog"], values, "change (points)").axes
    assert [bar.get_width() for bar in axes.patches] == [-4.0, 1.0, 2.0, 0.0]
    marked = [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "|"]
    assert marked == [[1.0, 3.0], [-1.0, 1.0]]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog"]
    # From the top on, as a reader goes.
    assert axes.yaxis_inverted() and axes.get_xlabel() == "change (points)"


def test_a_bar_of_nothing_is_seen_by_what_is_written_behind_it():
    """Where a bar is missing nobody knows whether the number is 0 or was never measured."""
    values, told = {"student": [[0.0], [25.0]]}, {"student": ["0 of 8", "2 of 8"]}
    (axes,) = bars(["one", "two"], values, "dead (%)", told=told).axes
    assert [text.get_text() for text in axes.texts] == ["0 of 8", "2 of 8"] and axes.get_xlim()[1] > 27


def test_more_names_take_more_room():
    """Twenty classes in the room of two are bars nobody can tell apart."""
    low, high = (bars(["a"] * some, {"x": [[1.0]] * some}, "y").get_figheight() for some in (2, 20))
    assert high - low == pytest.approx(18 * 0.29)


@pytest.mark.parametrize(
    ("names", "values", "told"), [([], {"a": []}, "no y to draw"), (["b"], {"a": []}, "a has 0 numbers")]
)
def test_what_does_not_fit_is_refused(names, values, told):
    """Numbers under the wrong names are believed."""
    with pytest.raises(ValueError, match=told):
        bars(names, values, "y")
