"""Two processes with a mean teacher, two students, or two momenta keep one of each."""

import learning_together
import pytest
import torch
from launched import in_two_processes
from tiny import differing, resnet, tensors

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What the two processes of `learning_together.py` wrote."""
    folder = tmp_path_factory.mktemp("two")
    in_two_processes("learning_together.py", folder)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]


def test_both_processes_have_one_mean(ranks):
    """A mean of statistics that each process has of its own would teach each another student."""
    first, second = (rank["mean"] for rank in ranks)
    assert differing(first["teacher"], second["teacher"]) == []
    assert [name for name in differing(first["student"], second["student"]) if "running" not in name] == []
    moved = differing(first["teacher"], tensors(resnet(4)))
    assert len(moved) > 10 and any("running_mean" in name for name in moved)


def test_both_processes_have_the_same_two_students(ranks):
    """A second student outside of what is averaged would be another one on every process."""
    first, second = (rank["mutual"] for rank in ranks)
    for part, began in (("student", resnet(4)), ("teacher", resnet(6, seed=1))):
        assert [name for name in differing(first[part], second[part]) if "running" not in name] == []
        assert len(differing(first[part], tensors(began))) > 10


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The student of one process with the joint batch."""
    return learning_together.run("momenta", tmp_path_factory.mktemp("one"), 1)["student"]


@pytest.mark.parametrize("kind", ["momenta", "accumulated"])
def test_two_momenta_train_two_processes_as_one(ranks, alone, kind):
    """The gradient of the task is taken behind the back of DDP, and has to be averaged all the same."""
    first, second = (rank[kind]["student"] for rank in ranks)
    assert differing(first, second) == []
    assert max((alone[name] - began).abs().max() for name, began in tensors(resnet(4)).items()) > 1e-2
    for name, tensor in alone.items():
        torch.testing.assert_close(first[name], tensor, rtol=1e-4, atol=1e-6)
