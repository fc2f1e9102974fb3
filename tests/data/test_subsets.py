"""Some rows of a data set, drawn by a seed."""

from collections import Counter

import pytest

from hf_abkd.data.subsets import drawn_rows

LABELS = [0] * 60 + [1] * 30 + [2] * 9 + [3]


@pytest.mark.parametrize("count", [1, 4, 7, 50, 99])
def test_every_class_gets_its_share_and_is_there_if_it_can_be(count):
    """A class that is left out cannot be learnt, and one that is common in the subset alone changes the prior."""
    rows = drawn_rows(LABELS, count, seed=3)
    assert len(rows) == len(set(rows)) == count and rows == sorted(rows)
    counts = Counter(LABELS[row] for row in rows)
    assert len(counts) == min(count, 4)
    assert all(abs(counts[label] - LABELS.count(label) * count / 100) < 2 for label in range(4))


def test_more_rows_are_the_same_ones_and_others():
    """Learning curves over the number of samples would otherwise change two things at once."""
    fewer, more = (set(drawn_rows(LABELS, count, seed=3)) for count in (10, 40))
    assert fewer < more


def test_the_seed_alone_decides():
    """Two methods of one comparison have to see the same rows, and two seeds others."""
    assert drawn_rows(LABELS, 10, seed=3) == drawn_rows(LABELS, 10, seed=3) != drawn_rows(LABELS, 10, seed=4)
    assert drawn_rows(LABELS, 1000, seed=-1) == list(range(100))
