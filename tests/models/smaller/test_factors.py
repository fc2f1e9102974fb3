"""Which share of a teacher a student is made of."""

import pytest

from hf_abkd.models.smaller.factors import Factors, evenly_spaced, share_of


@pytest.mark.parametrize(
    ("count", "factor", "kept"),
    [(3, 0.5, 2), (1, 0.5, 1), (9, 0.33, 3), (12, 0.33, 4), (10, 0.35, 4), (5, 0.01, 1), (6, 1, 6), (7, 0.5, 4)],
)
def test_a_half_is_rounded_up_and_one_is_kept(count, factor, kept):
    """A stage without a block is no stage, and a rule that nobody can foretell gives models that nobody asked for."""
    assert share_of(count, factor) == kept


def test_first_and_last_blocks_are_kept_and_the_others_lie_evenly_between():
    """The first block of a stage takes what comes from the stage before: no other one has its shapes."""
    assert evenly_spaced(9, 3) == [0, 4, 8]
    assert evenly_spaced(12, 4) == [0, 4, 7, 11]
    assert evenly_spaced(12, 6) == [0, 2, 4, 7, 9, 11]
    assert evenly_spaced(6, 1) == [0]
    for count in range(1, 30):
        assert evenly_spaced(count, count) == list(range(count))
        for kept in range(2, count + 1):
            chosen = evenly_spaced(count, kept)
            assert (chosen[0], chosen[-1], len(set(chosen))) == (0, count - 1, kept)


def test_factors_are_read_as_they_are_written():
    """A factor that is lost on the way to the recipe of a run makes another student when it is run again."""
    for factors in (Factors(0.5, 0.25), Factors(1 / 3, 1.0), Factors(1, 0.1)):
        assert Factors.read(str(factors)) == factors
    assert Factors.read("width=0.5") == Factors(1.0, 0.5)
    assert Factors.read(" depth=0.5, width=1 ") == Factors(0.5, 1.0)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("0.5", "'0.5' is none of depth and width: write depth=0.5"),
        ("height=0.5", "is none of depth and width"),
        ("depth=half", "'depth=half' is no number"),
        ("depth=0.5,depth=0.3", "is given twice"),
        ("depth=2", "depth must be above 0 and at most 1.*; got 2"),
        ("width=0", "width must be above 0"),
        ("depth=nan", "depth must be above 0"),
        ("depth=1,width=1", "the student would be its teacher"),
        ("", "is none of"),
    ],
)
def test_what_is_no_share_is_refused(text, told):
    """A typing error must not become the teacher itself, or a student that is larger."""
    with pytest.raises(ValueError, match=told):
        Factors.read(text)


@pytest.mark.parametrize("value", ["0.5", True, None])
def test_a_factor_is_a_number(value):
    """True counts as 1 in Python, and would be a share."""
    with pytest.raises(TypeError, match="depth must be a number"):
        Factors(depth=value)
