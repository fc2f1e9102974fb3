"""Images that are made by a process that is killed, or by one of two: all follows from one program, started once."""

import json

import pytest
import torch
from growing_runs import contents, files, made, run
from invertible import named_teacher
from launched import forked
from tiny import differing, tensors


@pytest.fixture(scope="module")
def left_behind(tmp_path_factory):
    """A killed run (`run`), a killed set of images (`set`), and what two processes wrote (`two`)."""
    folder = tmp_path_factory.mktemp("left behind")
    code, output = forked("growing_runs.py", folder)
    assert code == 0, output[-6000:]
    return folder


@pytest.mark.slow
def test_of_two_processes_one_makes_the_batches_and_both_read_them(left_behind):
    """Two that make them would write over each other; one that does not wait would read nothing."""
    folder = left_behind / "two"
    first, second = (json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2))
    assert first["world"] == second["world"] == 2
    assert (first["made"], second["made"]) == (4, 0)
    states = [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    # Statistics of BatchNorm are each process's own until an evaluation or a checkpoint.
    assert [name for name in differing(*states) if "running" not in name] == []


def test_a_run_that_is_killed_while_it_writes_a_batch_goes_on(left_behind, tmp_path):
    """The half of a file that is left must not be read, nor keep the batch from being made."""
    folder = left_behind / "run"
    assert list((folder / "synthesized" / "data").glob(".batch-00002*"))
    trainer, growing = run(folder, resume=True)
    straight, growing_straight = run(tmp_path, save_strategy="no")
    assert files(growing) == files(growing_straight)
    assert not list((folder / "synthesized" / "data").glob(".batch-00002*"))
    assert differing(tensors(trainer.model), tensors(straight.model)) == []


def test_a_killed_call_goes_on_and_gives_the_same_files(left_behind, tmp_path):
    """Hours are not lost, and a set that was interrupted is no other set."""
    folder = left_behind / "set"
    unfinished = left_behind / "set.incomplete"
    assert not folder.exists(), "it would look complete"
    assert list((unfinished / "data").glob(".*.unfinished"))
    first = unfinished / "data" / "batch-00000.parquet"
    time = first.stat().st_mtime_ns
    result = made(named_teacher(), folder)
    assert (folder / "data" / "batch-00000.parquet").stat().st_mtime_ns == time, "it was made again"
    assert not unfinished.exists()
    never_killed = made(named_teacher(), tmp_path / "images")
    assert contents(folder) == contents(never_killed.folder)
    assert result.quality == never_killed.quality
