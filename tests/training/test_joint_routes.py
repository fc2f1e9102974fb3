"""Two processes go one route: the same anchors at the same steps, as one process with the joint batch."""

import joint_routes
import pytest
import torch
from launched import in_two_processes
from tiny import differing, resnet
from tiny_runs import comparable

from hf_abkd.teachers.route.anchors import anchors_in

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where `joint_routes.py` ran, in two processes."""
    folder = tmp_path_factory.mktemp("two")
    in_two_processes("joint_routes.py", folder)
    return folder


@pytest.fixture(scope="module")
def ranks(folder):
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.parametrize("kind", ["fixed", "greedy", "hints", "resumed"])
def test_both_processes_learn_from_the_same_anchors(ranks, kind):
    """A choice that each process makes from its own images sends them along different routes."""
    first, second = (rank[kind] for rank in ranks)
    for part in ("student", "connectors"):
        assert differing(first[part], second[part]) == []
    assert comparable(first["log"]) == comparable(second["log"])
    assert len([entry for entry in first["log"] if "anchor" in entry]) == 3
    for rank in ranks:
        assert differing(rank[kind]["teacher"], rank["own"]) == []


def test_two_processes_resume_a_choice(ranks):
    """Each process reads what was chosen, and goes on with it."""
    straight, resumed = ranks[0]["greedy"], ranks[0]["resumed"]
    assert differing(straight["student"], resumed["student"]) == []
    assert comparable(straight["log"]) == comparable(resumed["log"])


@pytest.mark.parametrize("kind", ["fixed", "greedy", "hints"])
def test_two_processes_go_the_route_of_one(folder, ranks, tmp_path, kind):
    """Divergence is of all images, counted once, whatever processes share them."""
    teacher = resnet(6, seed=1)
    teacher.load_state_dict({name.partition(".")[2]: tensor for name, tensor in ranks[0]["own"].items()})
    torch.manual_seed(3)
    one = joint_routes.run(tmp_path, folder / "route", kind, teacher, 1)
    torch.testing.assert_close(ranks[0][kind]["student"], one["student"], rtol=1e-4, atol=1e-5)
    alone, together = ([e for e in run["log"] if "anchor" in e] for run in (one, ranks[0][kind]))
    for mine, theirs in zip(alone, together, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5)


def test_one_process_records_the_route(folder):
    """Two that write one folder spoil it."""
    assert [path.name for path in sorted((folder / "route").iterdir())] == ["anchor-3", "anchor-6", "anchor-9"]
    assert len(anchors_in(folder / "route")) == 3
