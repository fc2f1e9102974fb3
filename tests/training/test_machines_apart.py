"""Machines without a file system in common: what works there, and what is refused by all processes at once."""

import json

import pytest
from launched import in_two_processes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    """What the processes of two machines found."""
    folder = tmp_path_factory.mktemp("machines")
    in_two_processes("machines_apart.py", folder)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def test_a_run_trains_and_tells_what_its_checkpoints_lack(machines):
    """Found out after the machine was lost for which checkpoints are made, it is too late."""
    first, second = machines
    assert len(first["apart"]) == 1 and "cannot be gone on with" in first["apart"][0]
    assert second["apart"] == first["together"] == second["together"] == []
    assert "model.safetensors" in first["files"] and "model.safetensors" not in second["files"]
    assert len(first["losses"]) == 4 and first["losses"] == second["losses"]


def test_a_checkpoint_that_one_machine_has_is_refused_by_all(machines):
    """The machine that does not find it would end, and the other wait for it."""
    for machine in machines:
        assert "it has no rng_state_1.pth" in machine["incomplete"]
        assert "lies on" in machine["resumed"] and "do not find it" in machine["resumed"]


def test_a_cache_is_not_written_in_pieces(machines):
    """Each machine would have some of the shards, and none a cache: after hours, with an advice that does not help."""
    for machine in machines:
        for told in (machine["cache"], machine["half"]):
            assert "is another folder on" in told and "copy it to the others" in told
