"""Lines over the steps of training."""

import numpy as np
import pytest

from hf_abkd.reports.figures.line_chart import Line, Span, line_chart

STEPS = [10, 20, 30]


def drawn(figure):
    (axes,) = figure.axes
    return axes, {line.get_label(): line for line in axes.lines}


def test_what_is_drawn_are_the_numbers_that_were_given():
    """A picture of other numbers is worse than none."""
    lines = [Line("ab", STEPS, [3.0, 2.0, 1.0]), Line("ab", STEPS, [3.5, 2.5, 1.5]), Line("kd", STEPS, [1.0, 1.0, 1.0])]
    (axes,) = line_chart(lines, "loss").axes
    assert [list(line.get_ydata()) for line in axes.lines] == [line.values for line in lines]
    assert all(list(line.get_xdata()) == STEPS for line in axes.lines)
    first, second, third = (line.get_color() for line in axes.lines)
    assert first == second != third
    (legend,) = axes.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["ab", "kd"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("training step", "loss")


@pytest.mark.parametrize(
    ("values", "scale"), [([60.0, 2.0, 0.1], "log"), ([3.0, 2.0, 1.0], "linear"), ([60.0, 0, 1], "linear")]
)
def test_an_axis_is_logarithmic_where_a_flat_line_would_be_seen_else(values, scale):
    """The loss of a first stage is a hundred times that of the next, which then looks like 0."""
    axes, _ = drawn(line_chart([Line("a", STEPS, values)], "loss"))
    assert axes.get_yscale() == scale


def test_stages_are_marked_by_name_or_by_number_where_a_name_has_no_room():
    """A kink in a line is the next stage, which nobody sees who is not told."""
    spans = [Span("initialization", 0, 29), Span("classification", 29, 30)]
    axes, _ = drawn(line_chart([Line("a", STEPS, [1.0, 2.0, 3.0])], "loss", spans=spans))
    assert [text.get_text() for text in axes.texts] == ["initialization", "2"]
    assert [line.get_xdata()[0] for line in axes.lines if len(set(line.get_xdata())) == 1] == [29]
    axes, _ = drawn(line_chart([Line("a", STEPS, [1.0, 2.0, 3.0])], "loss", spans=spans[:1]))
    assert not axes.texts and len(axes.lines) == 1


def test_a_value_to_compare_with_lies_across():
    """An accuracy says little without that of the teacher."""
    axes, _ = drawn(line_chart([Line("a", STEPS, [1.0, 2.0, 3.0])], "accuracy (%)", level=("teacher", 90.0)))
    assert np.unique(axes.lines[-1].get_ydata()).tolist() == [90.0]
    assert axes.get_ylim()[1] > 90


def test_nothing_is_no_picture():
    """An empty field looks like a run in which nothing happened."""
    with pytest.raises(ValueError, match="no value of loss"):
        line_chart([Line("a", [], [])], "loss")
