"""Whether two models differ by more than chance."""

from math import comb

import numpy as np
import pytest

from hf_abkd.reports.mcnemar import mcnemar


def pair(both, only_one, only_other, neither):
    cells = [(True, True)] * both + [(True, False)] * only_one + [(False, True)] * only_other
    answers = np.array(cells + [(False, False)] * neither)
    return answers[:, 0], answers[:, 1]


def test_p_value_is_the_share_of_splits_that_are_as_uneven():
    """An asymptotic test of few disagreements calls chance a result."""
    found = mcnemar(*pair(400, 12, 4, 84))
    tail = sum(comb(16, k) for k in range(5)) / 2**16
    assert (found.only_one, found.only_other) == (12, 4)
    assert found.p_value == pytest.approx(2 * tail)
    assert mcnemar(*pair(0, 12, 4, 0)).p_value == found.p_value
    assert mcnemar(*pair(400, 4, 12, 84)).p_value == pytest.approx(found.p_value)
    assert str(found) == "p = 0.077, right alone on 12 images, the other on 4"
    assert str(mcnemar(*pair(0, 1, 50, 0))) == "p < 0.0001, right alone on 1 image, the other on 50"


def test_models_that_never_differ_are_no_evidence():
    """A division by the images on which they differ would be one by 0."""
    assert mcnemar(*pair(9, 0, 0, 1)).p_value == 1
    with pytest.raises(ValueError, match="as many answers"):
        mcnemar(np.ones(3, bool), np.ones(4, bool))


def test_equal_models_are_rarely_called_different():
    """A test that finds 5 of 100 differences in nothing at a p of 0.05 promises just that; more is a wrong formula."""
    generator = np.random.default_rng(0)
    draws = generator.choice(4, (400, 200), p=[0.7, 0.1, 0.1, 0.1])
    found = [mcnemar(np.isin(cells, (0, 1)), np.isin(cells, (0, 2))).p_value < 0.05 for cells in draws]
    assert 0.005 < np.mean(found) < 0.05
