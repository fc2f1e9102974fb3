"""Images to which two models give other classes."""

import numpy as np
import pytest

from hf_abkd.reports.disagreement import disagreements

OURS = np.log([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.99, 0.01]])
THEIRS = np.log([[0.2, 0.8], [0.6, 0.4], [0.1, 0.9], [0.01, 0.99]])


def test_the_farthest_apart_come_first_and_those_that_agree_do_not_come():
    """A reader looks at a dozen images: they must be the ones that tell most."""
    count, found = disagreements(OURS, THEIRS, most=2)
    assert count == 3 and [one.place for one in found] == [3, 0]
    first = found[0]
    assert (first.one.label, first.other.label) == (0, 1)
    assert (first.one.probability, first.distance) == (pytest.approx(0.99), pytest.approx(0.98))
    assert disagreements(OURS, OURS, most=2) == (0, [])


def test_answers_to_other_images_are_refused():
    """The images of one model under the answers of another are believed."""
    with pytest.raises(ValueError, match="one shape"):
        disagreements(OURS, THEIRS[:2], most=1)
