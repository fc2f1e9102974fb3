"""A table is written over days, by several processes, and through kills; what is finished is whole."""

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from target_tables import (
    ALL,
    COLUMNS,
    FORK,
    FORKING,
    IDENTITY,
    SAMPLES,
    SHARD,
    arrays,
    assert_equal,
    batches,
    contents,
    cut,
    in_child,
    make,
    writer_of,
)

from hf_abkd.data.table import table_writer
from hf_abkd.data.table.columns import Column
from hf_abkd.data.table.table_writer import TableWriter
from hf_abkd.data.table.target_table import TargetTable

pytestmark = pytest.mark.filterwarnings(FORKING)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": []}, "no columns"),
        ({"columns": [Column("a", "topk", (1, 2)), Column("a.rest", "bits", (1,))]}, r"\['a.rest'\] twice"),
        ({"samples": 0}, "must be positive"),
        ({"views": 0}, "must be positive"),
    ],
)
def test_an_impossible_table_is_refused(tmp_path, changes, message):
    """Nothing is made on disk for it."""
    with pytest.raises(ValueError, match=message):
        writer_of(tmp_path / "t", **changes)
    assert not list(tmp_path.iterdir())


def test_an_identity_that_json_cannot_hold_is_refused(tmp_path):
    """It could not be compared with that of the run that trains."""
    with pytest.raises(TypeError, match="values that JSON has"):
        writer_of(tmp_path / "t", identity={"folder": Path()})


def test_a_bit_on_disk_is_a_bit(tmp_path):
    """A quarter of a million neurons per image is what makes caching boundaries cheap; padding would undo it."""
    columns, samples = [Column("x", "bits", (28, 1024))], 400
    table = make(tmp_path / "t", columns=columns, samples=samples, views=1, samples_per_shard=150)
    on_disk = sum(path.stat().st_size for path in table.folder.rglob("*") if path.is_file())
    assert 1.0 <= on_disk * 8 / (samples * 28672) < 1.05


@pytest.mark.parametrize(("samples", "shards"), [(100, 1), (5_000, 5), (40_000, 16)])
def test_a_table_of_some_size_is_written_in_parts(tmp_path, samples, shards):
    """In one part, a kill at the end would lose all of it, and a second process would have nothing to do."""
    writer = TableWriter(
        tmp_path / "t", identity={}, columns=[Column("a", "bits", (8 * 4000,))], samples=samples, views=1
    )
    assert len(writer.shards) == shards


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path, small_blocks):
    """Hours of a teacher must survive a kill, and what is resumed must be what would have been."""
    kept = make(tmp_path / "whole" / "table", files={"more.json": "{}"}).folder
    folder = tmp_path / "killed" / "table"

    def killed():
        writer = writer_of(folder)
        writer.write(writer.shards[0], batches(arrays(), writer.shards[0]))
        for number, batch in enumerate(batches(arrays(), writer.shards[1])):
            writer_batches.append(batch)
            if number == 2:
                break
        writer.write(writer.shards[1], cut_off())

    def cut_off():
        yield from writer_batches
        os.kill(os.getpid(), signal.SIGKILL)

    writer_batches = []
    assert in_child(killed) == -signal.SIGKILL
    data = folder.with_name("table.incomplete") / ".table" / "data"
    assert len(list(data.glob(".train-00001-of-00003.arrow-*"))) == 1
    first = (data / "train-00000-of-00003.arrow").stat()
    with pytest.raises(FileNotFoundError, match=r"table\.incomplete is not finished: run the command"):
        TargetTable.open(folder)

    writer = writer_of(folder, samples_per_shard=7)
    assert [(shard.start, shard.stop, shard.done) for shard in writer.shards] == [
        (0, 4, True),
        (4, 8, False),
        (8, 10, False),
    ]
    with pytest.raises(RuntimeError, match=r"2 of 3 shards .* are not written yet: 1, 2"):
        writer.finish({})
    with pytest.raises(RuntimeError, match="shard 0 of .* is done"):
        writer.write(writer.shards[0], batches(arrays(), writer.shards[0]))
    for shard in writer.shards[1:]:
        writer.write(shard, batches(arrays(), shard, size=7))
    assert (data / "train-00000-of-00003.arrow").stat() == first
    writer.finish({}, {"more.json": "{}"})
    assert contents(folder) == contents(kept)
    assert [path.name for path in folder.parent.iterdir()] == ["table"]


def test_what_other_killed_runs_left_is_not_in_the_finished_table(tmp_path):
    """A shard that another process has done since leaves the half of the one that was killed."""
    writer = writer_of(tmp_path / "t", samples_per_shard=5)
    for shard in writer.shards:
        writer.write(shard, batches(arrays(), shard))
    (tmp_path / "t.incomplete" / ".table" / "data" / ".train-00001-of-00002.arrow-x").write_bytes(b"half")
    folder = writer.finish({}).folder
    assert sorted(contents(folder)) == [
        "README.md",
        "data/train-00000-of-00002.arrow",
        "data/train-00001-of-00002.arrow",
        "hf_abkd_cache.json",
        "index.npy",
    ]


def test_an_unfinished_table_is_none_for_anybody(tmp_path):
    """Half a table would train on half the images without a word."""
    writer = writer_of(tmp_path / "t")
    for shard in writer.shards[:2]:
        writer.write(shard, batches(arrays(), shard))
    for folder in (tmp_path / "t", tmp_path / "t.incomplete"):
        with pytest.raises(FileNotFoundError, match=r"t\.incomplete is not finished: run the command"):
            TargetTable.open(folder)
        for streaming in (False, True):
            with pytest.raises((FileNotFoundError, ValueError)):
                load_dataset(str(folder), cache_dir=str(tmp_path / "cache"), streaming=streaming)


@pytest.mark.parametrize("step", ["write_json", "write_text", "sync_folder"])
def test_a_run_that_is_killed_while_it_finishes_can_finish_again(tmp_path, monkeypatch, step):
    """The table appears as a whole or not at all, wherever the kill comes."""
    kept = make(tmp_path / "whole" / "table").folder
    writer = writer_of(tmp_path / "table")
    for shard in writer.shards:
        writer.write(shard, batches(arrays(), shard))

    def kill(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patched:
        patched.setattr(table_writer, step, kill)
        assert in_child(lambda: writer.finish({})) == -signal.SIGKILL
    assert not (tmp_path / "table").exists()
    with pytest.raises((FileNotFoundError, ValueError)):
        load_dataset(str(tmp_path / "table.incomplete"), cache_dir=str(tmp_path / "cache"))
    writer_of(tmp_path / "table").finish({})
    assert contents(tmp_path / "table") == contents(kept)


def test_two_processes_write_one_table(tmp_path):
    """Each of several processes runs the teacher on its share; all of them make the folder at once."""
    folder, barrier = tmp_path / "t", FORK.Barrier(4)

    def write(rank):
        barrier.wait(60)
        writer = writer_of(folder, samples_per_shard=2)
        for shard in writer.shards[rank::4]:
            writer.write(shard, batches(arrays(), shard))

    children = [FORK.Process(target=write, args=(rank,)) for rank in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0] * 4
    table = writer_of(folder).finish({})
    assert_equal(table.read(np.arange(30), ALL), arrays())
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_the_folder_of_another_process_is_used_and_not_replaced(tmp_path, monkeypatch):
    """Two processes that both see no folder: the second must not take the first one's place with its shards."""
    write, first = table_writer.write_json, []

    def slow(path, data):
        write(path, data)
        if not first:
            first.append(True)
            other = writer_of(tmp_path / "t", samples_per_shard=5)
            other.write(other.shards[0], batches(arrays(), other.shards[0]))

    monkeypatch.setattr(table_writer, "write_json", slow)
    writer = writer_of(tmp_path / "t")
    assert [shard.done for shard in writer.shards] == [True, False]
    assert [path.name for path in tmp_path.iterdir()] == ["t.incomplete"]


def test_a_shard_that_two_processes_write_is_an_error_of_one_of_them(tmp_path):
    """The same command started twice by mistake must not mix the bytes of two files."""
    writer, other = writer_of(tmp_path / "t"), writer_of(tmp_path / "t")

    def overtaken():
        other.write(other.shards[0], batches(arrays(), other.shards[0]))
        yield from batches(arrays(), writer.shards[0])

    with pytest.raises(RuntimeError, match="another process writes shard 0"):
        writer.write(writer.shards[0], overtaken())
    assert writer.shards[0].done


def test_a_table_of_another_identity_is_not_gone_on_with(tmp_path):
    """Half of the targets would be another teacher's; the message says what differs, on both sides."""
    writer_of(tmp_path / "t")
    other = {"teacher": {"name": "a/b", "fingerprint": "1" * 40 + "2" * 24}, "size": [3, 9, 9], "extra": True}
    columns = [Column("logits", "logits", (6,)), *COLUMNS[:2]]
    with pytest.raises(ValueError) as caught:
        writer_of(tmp_path / "t", identity=other, columns=columns, samples=11)
    message = str(caught.value)
    assert f'teacher.fingerprint: "{"1" * 64}" in the table, "{"1" * 40}{"2" * 24}" in this run' in message
    assert "size: [3, 8, 8] in the table, [3, 9, 9] in this run" in message
    assert "seed: 0 in the table, nothing in this run" in message
    assert "extra: nothing in the table, true in this run" in message
    assert 'columns.logits: "logits (5,)" in the table, "logits (6,)" in this run' in message
    assert 'columns.top: "topk (2, 6)" in the table, nothing in this run' in message
    assert "samples: 10 in the table, 11 in this run" in message
    assert "Delete that folder, or choose another one" in message
    assert not [word for word in ("teacher.name", "views", "layer1.0") if word in message]


def test_the_order_of_the_columns_is_that_of_the_shards_that_are_done(tmp_path):
    """A table whose shards have their columns in different orders is none."""
    kept = make(tmp_path / "whole" / "t").folder
    writer = writer_of(tmp_path / "t")
    writer.write(writer.shards[0], batches(arrays(), writer.shards[0]))
    writer = writer_of(tmp_path / "t", columns=COLUMNS[::-1], identity=dict(reversed(IDENTITY.items())))
    for shard in writer.shards[1:]:
        writer.write(shard, batches(arrays(), shard))
    assert contents(writer.finish({}).folder) == contents(kept)


def test_a_table_can_be_made_again_after_a_kill_at_the_very_end(tmp_path, monkeypatch):
    """Between the last two steps the table is there, and what it was written in too."""
    writer = writer_of(tmp_path / "t")
    for shard in writer.shards:
        writer.write(shard, batches(arrays(), shard))

    def killed():
        monkeypatch.setattr(shutil, "rmtree", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        writer.finish({})

    assert in_child(killed) == -signal.SIGKILL
    expected = contents(TargetTable.open(tmp_path / "t").folder)
    assert (tmp_path / "t.incomplete").is_dir()
    shutil.rmtree(tmp_path / "t")
    assert contents(make(tmp_path / "t").folder) == expected


def test_no_folder_is_overwritten(table, tmp_path):
    """A finished table is hours of work, and another folder is somebody's."""
    before = contents(table.folder)
    with pytest.raises(FileExistsError, match="holds a table that is complete: use it"):
        writer_of(table.folder)
    assert contents(table.folder) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(FileExistsError, match="mine exists and is no table"):
        writer_of(tmp_path / "mine")
    (tmp_path / "t.incomplete").mkdir()
    (tmp_path / "t.incomplete" / "notes.txt").touch()
    with pytest.raises(FileExistsError, match=r"t\.incomplete, in which .* holds something else"):
        writer_of(tmp_path / "t")
    (tmp_path / "empty").mkdir()
    assert make(tmp_path / "empty").samples == SAMPLES


def test_further_files_take_no_name_of_the_table(tmp_path):
    """A name from elsewhere must not overwrite the index, nor lead out of the folder."""
    writer = writer_of(tmp_path / "t", samples_per_shard=SAMPLES)
    writer.write(writer.shards[0], batches(arrays(), writer.shards[0]))
    for name in ("README.md", "hf_abkd_cache.json", "../a.json", "a/b.json", ".a.json", "a.pkl", "index.npy"):
        with pytest.raises(ValueError, match="further files"):
            writer.finish({}, {name: ""})


def test_a_shard_that_is_damaged_does_not_get_into_a_table(tmp_path):
    """The last moment at which the teacher can still run again."""
    writer = writer_of(tmp_path / "t")
    for shard in writer.shards:
        writer.write(shard, batches(arrays(), shard))
    cut(tmp_path / "t.incomplete" / ".table" / SHARD, 1000)
    with pytest.raises(ValueError, match="00001-of-00003.arrow is damaged.*Delete this file and run the same command"):
        writer.finish({})
    assert not (tmp_path / "t").exists()
