"""Which part of a route each step of a stage belongs to."""

import copy
from fractions import Fraction
from pathlib import Path

import pytest

from hf_abkd.objectives import CrossEntropy
from hf_abkd.stages.stage import Stage
from hf_abkd.stages.term import Term
from hf_abkd.teachers.route.route import TeacherRoute

SHARES = [None, [0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.98, 0.01, 0.01]]


def route(shares=None, count=3):
    return TeacherRoute([f"anchor-{number}" for number in range(count)], shares=shares)


@pytest.mark.parametrize("shares", SHARES)
@pytest.mark.parametrize("steps", [3, 4, 7, 10, 100, 101, 997])
def test_every_step_has_a_part_and_the_last_part_ends_the_stage(shares, steps):
    """Public code runs over the end of its list of anchors, or never comes to the converged teacher."""
    own = route(shares)
    exact = [Fraction(1, 3)] * 3 if shares is None else [Fraction(str(share)) for share in shares]
    ends = [round(steps * sum(exact[: part + 1])) for part in range(3)]
    if len({0, *ends}) < 4:
        with pytest.raises(ValueError, match=f"{steps} steps cannot be divided into parts of"):
            own.check_length(steps)
        return
    own.check_length(steps)
    parts = [own.part_at(done, steps) for done in range(steps)]
    assert parts == [next(part for part in range(3) if done < ends[part]) for done in range(steps)]
    assert sorted(set(parts)) == [0, 1, 2] and parts == sorted(parts)
    assert [own.part_at(done, steps) for done in (steps, steps + 5, 10 * steps)] == [2, 2, 2]


def test_a_route_longer_than_the_run_is_refused():
    """Two steps cannot teach from three anchors, and leaving one out in silence would be another route."""
    for steps in (0, 1, 2):
        with pytest.raises(ValueError, match="train longer, or take fewer anchors"):
            route().check_length(steps)


def test_one_part_of_a_route_fills_its_stage():
    """With a stage for each anchor, the shares have been used up by the lengths of the stages."""
    whole = route([0.5, 0.3, 0.2])
    own = whole.only(1)
    own.check_length(1)
    assert {own.part_at(done, 4) for done in range(4)} == {1}
    assert whole.part is None and whole.part_at(0, 10) == 0
    assert own.describe() != whole.describe() != route([0.4, 0.4, 0.2]).describe()


def test_a_description_says_nothing_of_folders():
    """A run is resumed on another machine, where its anchors lie elsewhere; cards show no paths."""
    assert TeacherRoute(["/home/me/a", "/home/me/b"]).describe() == TeacherRoute(["x", "y"]).describe()
    assert "home" not in TeacherRoute(["/home/me/a", "/home/me/b"]).describe()


def test_a_copy_of_the_stages_shares_the_route():
    """A route may hold a data set, which is not to be copied for every trainer."""
    own = route()
    assert copy.deepcopy([Stage([Term(CrossEntropy())], teacher=own)])[0].route is own


def test_a_stage_takes_a_folder_or_a_route():
    """The shortest way to learn from one checkpoint is to name it."""
    for given in ("a/b", Path("a/b")):
        assert Stage([Term(CrossEntropy())], teacher=given).route.anchors == (Path("a/b"),)
    plain = Stage([Term(CrossEntropy())])
    assert plain.route is None and "teacher" not in plain.describe()
    assert "3 anchors" in Stage([Term(CrossEntropy())], teacher=route()).describe()["teacher"]
    with pytest.raises(TypeError, match="stage 'x': teacher must be a folder .*got list"):
        Stage([Term(CrossEntropy())], name="x", teacher=["a", "b"])


@pytest.mark.parametrize(
    ("anchors", "shares", "message"),
    [
        ([], None, "at least one anchor"),
        (["a", "b"], [1.0], "2 anchors need as many shares, got 1"),
        (["a", "b"], [0.5, 0.4], "add up to 1"),
        (["a", "b"], [1.5, -0.5], r"each of shares must be in \(0, 1\], got 1.5"),
        (["a", "b"], [1.0, 0.0], r"each of shares must be in \(0, 1\]"),
        (["a", "b"], [float("nan"), 0.5], r"each of shares must be in \(0, 1\]"),
    ],
)
def test_impossible_routes_are_refused(anchors, shares, message):
    """Before a model is loaded."""
    with pytest.raises(ValueError, match=message):
        TeacherRoute(anchors, shares=shares)


def test_a_single_name_is_no_list_of_anchors():
    """Its letters would be."""
    with pytest.raises(TypeError, match=r"write \['run'\]"):
        TeacherRoute("run")
