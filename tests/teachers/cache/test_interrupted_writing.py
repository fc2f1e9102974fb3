"""A teacher may take a day: a writer that is stopped goes on to the same bytes, alone or with others."""

import multiprocessing
import os
import signal
import threading

import pytest
import tiny
import torch
from cached_runs import STAGE, contents, named, out_of_memory, processor, rows, squared, teacher_of, write
from torch import nn

from hf_abkd.data.table.table_writer import TableWriter
from hf_abkd.teachers.cache import writing
from hf_abkd.teachers.cache.teacher_cache import TeacherCache


class Failing(nn.Module):
    """A teacher that does something after so many passes."""

    def __init__(self, model, passes, action):
        super().__init__()
        self.model, self.config = model, model.config
        self.left, self.action = passes, action

    def forward(self, pixel_values):
        if self.left == 0:
            self.action()
        self.left -= 1
        return self.model(pixel_values)


LAYERS = {"layers": [f"model.{STAGE}"], "features": ["model.resnet.embedder.pooler"], "batch_size": 2}


def test_an_interrupted_writer_goes_on_to_the_same_bytes(tmp_path, small_shards, caplog):
    """Whoever resumes must not wonder whether the half before and the half behind belong together."""
    write(tmp_path / "straight", Failing(teacher_of(), -1, None), **LAYERS)
    with pytest.raises(torch.OutOfMemoryError):
        write(tmp_path / "cache", Failing(teacher_of(), 30, out_of_memory), **LAYERS)
    done = list((tmp_path / "cache.incomplete" / ".table" / "data").iterdir())
    assert 0 < len(done) < len(list((tmp_path / "straight" / "data").iterdir()))
    assert not (tmp_path / "cache").exists()
    passes = []
    write(tmp_path / "cache", Failing(teacher_of(), 0, lambda: passes.append(1)), **LAYERS)
    assert contents(tmp_path / "cache") == contents(tmp_path / "straight")
    assert "going on with" in caplog.text and not (tmp_path / "cache.incomplete").exists()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_killed_writer_goes_on_to_the_same_bytes(tmp_path, small_shards):
    """A queue kills without asking."""
    write(tmp_path / "straight", Failing(teacher_of(), -1, None), **LAYERS)

    def child():
        write(tmp_path / "cache", Failing(teacher_of(), 30, lambda: os.kill(os.getpid(), signal.SIGKILL)), **LAYERS)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    write(tmp_path / "cache", Failing(teacher_of(), -1, None), **LAYERS)
    assert contents(tmp_path / "cache") == contents(tmp_path / "straight")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": lambda: named(tiny.resnet(8, seed=2))}, r"teacher.fingerprint: .* in the table"),
        ({"data": lambda: rows(24, seed=1)}, r"data.some.ids: "),
        ({"data": lambda: rows(25)}, r"data.images: 24 in the table, 25 in this run"),
        ({"own": lambda: processor(24)}, r"image_size: \[16, 16\] in the table, \[24, 24\] in this run"),
        ({"own": lambda: processor(resample=3)}, r"processor.resample: 2 in the table, 3 in this run"),
        ({"own": lambda: processor(image_mean=[0.4, 0.5, 0.5])}, r"processor.image_mean: \[0.5, 0.5, 0.5\]"),
        ({"seed": 1}, "seed: 42 in the table, 1 in this run"),
        ({"views": 3}, "views: 2 in the table, 3 in this run"),
        ({"augmentation": squared}, 'augmentation: .* "squared" in this run'),
        ({"precision": "bf16"}, 'precision: "fp32" in the table, "bf16" in this run'),
        ({"logits": 2}, r"columns.logits: \"logits \(4,\)\" in the table, \"topk \(2, 4\)\""),
        ({"layers": None}, "points.resnet.embedder"),
        ({"features": [STAGE]}, "points.values of"),
    ],
)
def test_another_cache_is_not_gone_on_with(tmp_path, small_shards, change, message):
    """Half of one teacher's answers and half of another's would look like a cache."""
    with pytest.raises(torch.OutOfMemoryError), pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing._Writer, "_stored", lambda *_: out_of_memory())
        write(tmp_path / "cache", layers=[STAGE])
    changed = {key: value() if key in ("teacher", "data", "own") else value for key, value in change.items()}
    with pytest.raises(ValueError, match=f"(?s)was begun for another table.*{message}"):
        write(tmp_path / "cache", **{"layers": [STAGE], **changed})


def test_a_complete_cache_of_something_else_is_left_alone(good):
    """It may be the only copy."""
    with pytest.raises(FileExistsError, match=r"complete cache of something else: seed: 42 in the table, 1 in this"):
        write(good.table.folder, layers=[STAGE], features=["resnet.embedder.pooler"], seed=1)


def test_a_call_that_was_complete_returns_what_is_there(good, caplog):
    """Killed while it was verified or uploaded, a day of work could else not be gone on with by the same command."""
    before = {path: path.stat().st_mtime_ns for path in good.table.folder.rglob("*")}
    again = write(good.table.folder, layers=[STAGE], features=["resnet.embedder.pooler"])
    assert again.table.manifest == good.table.manifest and "is complete already: nothing was written" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in good.table.folder.rglob("*")} == before


class Together:
    """Stands for `PartialState` in threads: so many processes, which wait for each other."""

    def __init__(self, index, barrier):
        self.process_index, self.num_processes, self.is_main_process = index, barrier.parties, index == 0
        self.device, self.wait_for_everyone = torch.device("cpu"), barrier.wait


def test_processes_share_the_shards_even_if_one_comes_late(tmp_path, small_shards, monkeypatch):
    """One that looks when the first shard is written would take other shards for its share."""
    write(tmp_path / "alone")
    barrier, here, results = threading.Barrier(2, timeout=20), threading.local(), {}
    first_shard, run, write_shard = threading.Event(), writing._Writer.run, TableWriter.write

    def late(writer):
        if here.index == 1:
            # Long enough for a shard of the other one, if that does not wait.
            first_shard.wait(0.5)
        return run(writer)

    def told(*given):
        write_shard(*given)
        first_shard.set()

    monkeypatch.setattr(writing, "PartialState", lambda: Together(here.index, barrier))
    monkeypatch.setattr(writing._Writer, "run", late)
    monkeypatch.setattr(TableWriter, "write", told)

    def process(index, teacher):
        here.index = index
        try:
            results[index] = write(tmp_path / "together", teacher)
        except (RuntimeError, threading.BrokenBarrierError) as error:
            results[index] = error
            barrier.abort()

    threads = [threading.Thread(target=process, args=(index, teacher_of())) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(isinstance(result, TeacherCache) for result in results.values()) and len(results) == 2, results
    assert contents(tmp_path / "together") == contents(tmp_path / "alone")
