"""Route constrained optimisation as stages: how anchors are chosen and how they divide a run."""

import pytest
from tiny import arguments
from tiny_runs import published

from hf_abkd.methods import GreedyRoute, equal_interval, knowledge_distillation, route_constrained
from hf_abkd.objectives import ActivationBoundary
from hf_abkd.stages.lengths import stage_arguments
from hf_abkd.stages.stage import Stage
from hf_abkd.stages.term import PairedTerms, Term
from hf_abkd.teachers.route.route import TeacherRoute
from hf_abkd.training.terms.run_stage import run_stages

ANCHORS = ["c1", "c2", "c3", "c4"]
NAMES = [f"checkpoint-{step}" for step in range(100, 1100, 100)]


def described(stages):
    return [[term.describe() for term in stage.each_term()] for stage in stages]


# ---- Which anchors ----


@pytest.mark.parametrize("total", range(1, 30))
def test_equal_intervals_end_with_the_converged_teacher(total):
    """A route that ends before the last checkpoint teaches an unfinished teacher."""
    names = list(range(1, total + 1))
    for count in range(1, total + 1):
        chosen = equal_interval(names, count=count)
        assert len(chosen) == len(set(chosen)) == count and chosen == sorted(chosen) and chosen[-1] == total
        gaps = [after - before for before, after in zip([0, *chosen], chosen, strict=False)]
        assert max(gaps) - min(gaps) <= 1
    for every in range(1, total + 1):
        expected = [name for name in names if name % every == 0]
        assert equal_interval(names, every=every) == expected + [total] * (expected[-1] != total)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give either count"),
        ({"count": 2, "every": 2}, "give either count"),
        ({"count": 0}, "count must be a whole number from 1 to 10, got 0"),
        ({"count": 11}, "got 11"),
        ({"every": 0}, "every must be a whole number from 1"),
        ({"every": 11}, "got 11"),
    ],
)
def test_intervals_that_do_not_exist_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        equal_interval(NAMES, **settings)


def slow_greedy(hardness_of, parts, delta):
    """The choice written out: hardness_of[student's part][anchor]."""
    chosen = [0]
    last = len(hardness_of[0]) - 1
    for part in range(1, parts):
        table, before = hardness_of[part], chosen[-1]
        anchor = None
        if part == parts - 1 or before == last:
            anchor = last
        else:
            for later in range(before + 1, last + 1):
                if table[later] <= delta * table[before]:
                    anchor = later
            if anchor is None:
                anchor = before + 1
        chosen.append(anchor)
    return chosen


@pytest.mark.parametrize("delta", [1.0, 1.2, 1.5, 3.0])
@pytest.mark.parametrize("seed", range(8))
def test_the_greedy_choice_is_the_furthest_anchor_that_is_not_too_hard(delta, seed):
    """Stopping at the first anchor that is too hard, or comparing with the wrong one, would be another search."""
    import random

    draw, parts, count = random.Random(seed), 4, 7
    table = [[draw.uniform(0.1, 0.4) * (1 + anchor / 2) for anchor in range(count)] for _ in range(parts)]
    own = GreedyRoute([f"c{anchor}" for anchor in range(count)], None, parts=parts, delta=delta)
    chosen = []
    for part in range(parts):
        before = chosen[-1] if chosen else None
        chosen.append(own.choose(part, before, table[part].__getitem__))
    assert chosen == slow_greedy(table, parts, delta)
    assert chosen[0] == 0 and chosen[-1] == count - 1 and chosen == sorted(chosen)


def test_greedy_choices_differ_with_delta():
    """The comparison above would prove nothing if every delta gave the same route."""
    hardness = [1.0, 1.1, 1.3, 1.4, 2.0].__getitem__
    routes = {d: GreedyRoute(list("abcde"), None, parts=3, delta=d).choose(1, 0, hardness) for d in (1, 1.2, 1.5, 2)}
    assert routes == {1: 1, 1.2: 1, 1.5: 3, 2: 4}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"parts": 1}, "parts must be a whole number, 2 or more"),
        ({"delta": 0.5}, "delta must be finite and at least 1"),
        ({"delta": float("inf")}, "delta must be"),
        ({"parts": 2, "shares": [0.2, 0.3, 0.5]}, "2 parts need as many shares, got 3"),
    ],
)
def test_impossible_greedy_routes_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        GreedyRoute(ANCHORS, None, **settings)


# ---- Stages ----


def test_by_default_the_route_differs_from_distillation_by_its_teacher_alone():
    """A comparison of two methods whose terms, schedule or length differ compares these."""
    (only,), (plain,) = route_constrained(ANCHORS), knowledge_distillation()
    assert described([only]) == described([plain])
    assert (only.share, only.epochs, only.steps, only.arguments, only.optimizer) == (None, None, None, {}, None)
    assert [str(anchor) for anchor in only.route.anchors] == ANCHORS and only.route.shares == (0.25,) * 4


def test_every_stage_goes_the_whole_route():
    """Of boundaries and then classes, both are to become harder step by step."""
    stages = route_constrained(ANCHORS, stages=published([("a", "b")]), shares=[0.1, 0.2, 0.3, 0.4])
    assert [(stage.name, stage.share) for stage in stages] == [("initialization", 0.3), ("classification", None)]
    assert stages[0].route is stages[1].route and stages[0].route.shares == (0.1, 0.2, 0.3, 0.4)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"max_steps": 100}, [25, 25, 25, 25]),
        ({"max_steps": 10}, [2, 3, 3, 2]),
        ({"max_steps": 4}, [1, 1, 1, 1]),
        ({"max_steps": -1, "num_train_epochs": 6}, [1.5, 1.5, 1.5, 1.5]),
    ],
)
def test_restarted_stages_divide_the_run(tmp_path, settings, expected):
    """The budget is that of the run however many anchors there are."""
    stages = route_constrained(ANCHORS, restart=True)
    assert [stage.name for stage in stages] == ["route 1/4", "route 2/4", "route 3/4", "route 4/4"]
    assert [stage.route.part for stage in stages] == [0, 1, 2, 3]
    lengths = stage_arguments(arguments(tmp_path, **settings), stages)
    assert [own.max_steps if own.max_steps > 0 else own.num_train_epochs for own in lengths] == expected


def test_restarted_stages_of_several_stages_keep_their_lengths(tmp_path):
    """Each given stage keeps its part of the run, divided over the anchors."""
    stages = route_constrained(["x", "y"], stages=published([("a", "b")]), shares=[0.25, 0.75], restart=True)
    lengths = stage_arguments(arguments(tmp_path, max_steps=400), stages)
    assert [own.max_steps for own in lengths] == [30, 90, 70, 210]
    assert [stage.name for stage in stages][:2] == ["initialization 1/2", "initialization 2/2"]
    stages = route_constrained(
        ["x", "y", "z"], stages=[Stage(knowledge_distillation()[0].terms, steps=10)], restart=True
    )
    assert [stage.steps for stage in stages] == [3, 4, 3]
    stages = route_constrained(["x", "y"], stages=[Stage(knowledge_distillation()[0].terms, epochs=5)], restart=True)
    assert [stage.epochs for stage in stages] == [2.5, 2.5]
    mixed = published([("a", "b")], initialization_epochs=3)
    with pytest.raises(ValueError, match=r"\['classification'\] are is not known, as \['initialization'\]"):
        route_constrained(["x", "y"], stages=mixed, restart=True)
    with pytest.raises(ValueError, match="2 steps of stage '' are too few for 3 parts"):
        short = [Stage(knowledge_distillation()[0].terms, steps=2)]
        route_constrained(["x", "y", "z"], stages=short, restart=True)


def test_connectors_go_on_from_anchor_to_anchor(tmp_path):
    """A connector that is made anew for every anchor undoes what the one before taught."""
    hint = Term(ActivationBoundary(), student="a", teacher="b")
    open_pairs = PairedTerms(ActivationBoundary())
    for term in (hint, open_pairs):
        stages = route_constrained(ANCHORS, stages=[Stage([term])], restart=True)
        assert {id(stage.terms[0]) for stage in stages} == {id(term)}
    stages = route_constrained(ANCHORS, stages=[Stage([hint])], restart=True)
    copied = run_stages(stages, arguments(tmp_path))
    assert len({id(stage.terms[0]) for stage in copied}) == 1


def test_impossible_routes_are_refused():
    """Before a model is loaded."""
    with pytest.raises(ValueError, match=r"at least two anchors, got \['c1'\].*knowledge_distillation"):
        route_constrained(["c1"])
    with pytest.raises(TypeError, match="anchors must be a list of folders"):
        route_constrained("c1")
    with pytest.raises(ValueError, match="stands in the route twice"):
        route_constrained(["c1", "c2", "c1"])
    with pytest.raises(ValueError, match="has its shares already"):
        route_constrained(TeacherRoute(ANCHORS), shares=[0.25] * 4)
    with pytest.raises(ValueError, match="have weights for the teacher already"):
        route_constrained(ANCHORS, stages=route_constrained(ANCHORS))
