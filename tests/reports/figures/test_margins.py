"""Margins of a layer."""

import numpy as np
import pytest

from hf_abkd.reports.figures.margins import margins


def test_all_responses_are_counted_the_far_ones_at_the_edge():
    """A picture that leaves out what is far from the boundary says that nothing is."""
    (axes,) = margins({"student": np.array([-9.0, -0.1, 0.1, 9.0]), "teacher": np.array([0.05])}).axes
    student, teacher = (patch.get_data().values for patch in axes.patches)
    assert student.sum() == pytest.approx(100) and teacher.sum() == pytest.approx(100)
    assert student[0] == student[-1] == 25 and np.flatnonzero(teacher).tolist() == [len(teacher) // 2]


@pytest.mark.parametrize("responses", [{}, {"student": np.array([])}])
def test_nothing_is_no_picture(responses):
    """An empty field looks like a layer without responses."""
    with pytest.raises(ValueError, match="no response"):
        margins(responses)
