"""How sure a share of images is."""

import math

import numpy as np
import pytest

from hf_abkd.reports.intervals import paired_difference, share


def hits(right, wrong):
    return np.array([True] * right + [False] * wrong)


@pytest.mark.parametrize(("right", "images"), [(9, 10), (0, 20), (20, 20), (868, 899)])
def test_interval_of_a_share_is_the_score_interval(right, images):
    """The usual one, value plus and minus two deviations, says of 20 right of 20 that nothing else is possible."""
    found = share(hits(right, images - right))
    value, z = right / images, 1.959963984540054
    middle = (value + z**2 / (2 * images)) / (1 + z**2 / images)
    reach = z * math.sqrt(value * (1 - value) / images + z**2 / (4 * images**2)) / (1 + z**2 / images)
    assert (found.low, found.high) == pytest.approx((middle - reach, middle + reach), abs=1e-9)
    assert found.value == value and 0 <= found.low <= value + 1e-12 and value - 1e-12 <= found.high <= 1


def test_a_share_of_nothing_is_refused():
    """It would be a division by 0 in a report."""
    with pytest.raises(ValueError, match="no image"):
        share(hits(0, 0))


def test_images_on_which_both_agree_do_not_widen_a_difference():
    """Two students of 90 % that err on the same images differ surely by little; apart, each is sure to 2 points."""
    one, other = hits(905, 95), hits(900, 100)
    found = paired_difference(one, other)
    assert found.value == pytest.approx(0.5) and found.low > 0 and found.is_clear
    assert str(found).startswith("+0.5 points (95 % interval +0.0 to +1.0")
    shuffled = np.random.default_rng(0).permutation(other)
    assert not paired_difference(one, shuffled).is_clear
    with pytest.raises(ValueError, match="same images"):
        paired_difference(one, other[:-1])


def test_difference_of_the_same_answers_is_none():
    """With a deviation of 0 the interval would be a point, as if no image could have told them apart."""
    found = paired_difference(hits(90, 10), hits(90, 10))
    assert found.value == 0 and found.low < 0 < found.high


@pytest.mark.parametrize("images", [30, 200])
def test_intervals_hold_what_they_promise(images):
    """95 of 100 draws: an interval that is too short calls chance a result."""
    generator = np.random.default_rng(images)
    kept = 0
    for _ in range(1000):
        cells = generator.choice(4, images, p=[0.75, 0.12, 0.05, 0.08])
        found = paired_difference(np.isin(cells, (0, 1)), np.isin(cells, (0, 2)))
        kept += found.low <= 7.0 <= found.high
    assert 930 <= kept <= 985
