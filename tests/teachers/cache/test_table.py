"""A teacher's targets must come back as they were stored, or not at all: a wrong row trains on another image."""

import json
import math
import mmap
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, load_dataset
from huggingface_hub import DatasetCard
from loopback_hub import LoopbackHub

from hf_abkd.teachers.cache import table as target_table
from hf_abkd.teachers.cache.card import table_card
from hf_abkd.teachers.cache.table import Column, TableWriter, TargetTable, identity_differences

SAMPLES, VIEWS = 10, 3
COLUMNS = (
    Column("layer1.0", "bits", (3, 7)),
    Column("norm", "float16", (2, 3)),
    Column("logits", "logits", (5,)),
    Column("top", "topk", (2, 6)),
)
IDENTITY = {"teacher": {"name": "a/b", "fingerprint": "1" * 64}, "size": (3, 8, 8), "seed": 0}
# Forking is deprecated where other threads may hold locks; the children here use none of theirs.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
FORK = multiprocessing.get_context("fork")
ALL = ["sample_id", "view", "pixels", *(column.name for column in COLUMNS)]


def arrays(columns=COLUMNS, samples=SAMPLES, views=VIEWS, seed=0):
    """All rows of a table."""
    rng, rows = np.random.default_rng(seed), samples * views

    def halves(*shape):
        return rng.normal(size=(rows, *shape)).astype(np.float16)

    table = {
        "sample_id": np.repeat(rng.integers(-(2**63), 2**63 - 1, samples), views),
        "view": np.tile(np.arange(views, dtype=np.int32), samples),
        "pixels": rng.integers(-(2**63), 2**63 - 1, rows),
    }
    for column in columns:
        if column.kind == "bits":
            bits = rng.integers(0, 2, (rows, math.prod(column.shape)), dtype=np.uint8)
            table[column.name] = np.packbits(bits, axis=1, bitorder="little")
        elif column.kind == "topk":
            k, classes = column.shape
            table[column.name] = {
                "values": halves(k),
                "indices": rng.integers(0, classes, (rows, k), dtype=np.int32),
                "rest": rng.normal(size=rows).astype(np.float32),
            }
        else:
            table[column.name] = halves(*column.shape)
    return table


def part(table, rows):
    return {
        name: {key: value[rows] for key, value in values.items()} if isinstance(values, dict) else values[rows]
        for name, values in table.items()
    }


def batches(table, shard, views=VIEWS, size=4):
    """The rows of a shard in batches that fit neither samples nor record batches."""
    for start in range(shard.start * views, shard.stop * views, size):
        yield part(table, slice(start, min(start + size, shard.stop * views)))


def writer_of(folder, *, samples_per_shard=4, **changes):
    settings = {"identity": IDENTITY, "columns": COLUMNS, "samples": SAMPLES, "views": VIEWS, **changes}
    per_sample = settings["views"] * (20 + sum(column.row_bytes for column in settings["columns"]))
    return TableWriter(folder, shard_bytes=samples_per_shard * per_sample, **settings)


def make(folder, table=None, facts=None, files=None, **settings):
    writer = writer_of(folder, **settings)
    table = arrays(writer.columns, writer.samples, writer.views) if table is None else table
    for shard in writer.shards:
        writer.write(shard, batches(table, shard, writer.views))
    return writer.finish(facts or {}, files)


def assert_equal(read, expected):
    """The same arrays: values, dtypes and shapes."""
    assert read.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, dict):
            assert_equal(read[name], value)
        else:
            assert read[name].dtype == value.dtype
            np.testing.assert_array_equal(read[name], value, strict=True)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def in_child(action):
    """Run something in a forked process; return its exit code, which is minus the signal that killed it."""
    child = FORK.Process(target=action)
    child.start()
    child.join(60)
    return child.exitcode


@pytest.fixture
def small_batches(monkeypatch):
    """Record batches of two samples."""
    monkeypatch.setattr(target_table, "_BATCH_BYTES", 2 * VIEWS * (20 + sum(column.row_bytes for column in COLUMNS)))


@pytest.fixture
def table(tmp_path, small_batches):
    return make(tmp_path / "table", files={"preprocessor_config.json": "{}\n"})


@pytest.mark.parametrize("rows", [slice(None), [29, 0, 17, 17, 4, 11, 12], [5], []])
def test_rows_come_back_as_they_were_written(table, rows):
    """Across shards and record batches, in any order and more than once: a wrong row is another image's target."""
    rows = np.arange(SAMPLES * VIEWS)[rows]
    assert_equal(table.read(rows, ALL), part(arrays(), rows))
    assert len(list(table.folder.glob("data/*"))) == 3


def test_the_properties_tell_what_the_table_is(table):
    """Whoever trains from it compares them with the run."""
    assert table.columns == {column.name: column for column in COLUMNS}
    assert (table.samples, table.views, table.folder.name) == (SAMPLES, VIEWS, "table")
    assert table.identity == {**IDENTITY, "size": [3, 8, 8]}
    assert table.nbytes == sum(path.stat().st_size for path in table.folder.glob("data/*"))
    assert (table.folder / "preprocessor_config.json").read_text() == "{}\n"


@pytest.mark.parametrize("shape", [(1,), (7,), (8,), (9,), (5, 13)])
def test_bits_of_any_number_come_back(tmp_path, shape):
    """Layers have any number of units, and the last byte is then not full."""
    columns = [Column("x", "bits", shape)]
    table, expected = make(tmp_path / "t", columns=columns), arrays(columns)
    read = table.read(np.arange(30), ["x"])["x"]
    assert read.shape == (30, -(-math.prod(shape) // 8))
    np.testing.assert_array_equal(read, expected["x"])


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.kind)
def test_a_column_survives_json(column):
    """The manifest is all that says how the bytes are to be read."""
    assert Column.from_json(json.loads(json.dumps(column.to_json()))) == column


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", "bits", (3,)), "needs a name"),
        (("pixels", "bits", (3,)), "needs a name other than"),
        (("x", "int8", (3,)), "kind must be one of"),
        (("x", "bits", ()), "shape must be that of a row"),
        (("x", "float16", (3, 0)), "positive whole numbers"),
        (("x", "logits", (3, 4)), r"shape must be \(K,\)"),
        (("x", "topk", (3,)), r"shape must be \(k, K\)"),
        (("x", "topk", (3, 2)), "no 3 largest of 2"),
    ],
)
def test_an_impossible_column_is_refused(arguments, message):
    """Before the teacher has run for hours."""
    with pytest.raises(ValueError, match=message):
        Column(*arguments)


def test_a_column_of_the_hub_that_is_none_is_refused():
    """A manifest comes from elsewhere."""
    with pytest.raises(ValueError, match="name, kind and shape"):
        Column.from_json({"name": "x"})


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


def test_rows_are_found_by_the_hash_of_the_image(table):
    """Samplers shuffle, and a data set may be filtered: only the hash leads to an image's targets."""
    ids = arrays()["sample_id"][::VIEWS]
    order = np.random.default_rng(1).permutation(SAMPLES)
    np.testing.assert_array_equal(table.rows(ids[order], 2), order * VIEWS + 2)
    views = np.arange(SAMPLES) % VIEWS
    np.testing.assert_array_equal(table.rows(ids[order], views), order * VIEWS + views)


def test_a_sample_that_is_not_there_is_an_error(table):
    """Another decoder gives other pixels: the targets of whatever is nearest would be those of another image."""
    ids = arrays()["sample_id"][::VIEWS].copy()
    ids[[2, 5, 7]] = [5, -(2**63), 2**63 - 1]
    with pytest.raises(ValueError, match=r"^3 of 10 samples are not in the table .*5, .*how its images are decoded"):
        table.rows(ids, 0)


@pytest.mark.parametrize("view", [-1, VIEWS, np.array([0, 3])])
def test_a_view_that_is_not_there_is_an_error(table, view):
    """It would be the view of the neighbouring sample."""
    with pytest.raises(ValueError, match="view must be from 0 to 2"):
        table.rows(arrays()["sample_id"][:2], view)


@pytest.mark.parametrize("row", [-1, SAMPLES * VIEWS])
def test_a_row_that_is_not_there_is_an_error(table, row):
    """A negative one would count from the end."""
    with pytest.raises(IndexError, match="rows are from 0 to 29"):
        table.read(np.array([0, row]), ["norm"])


def test_a_column_that_is_not_there_is_an_error(table):
    """The message lists those that are."""
    with pytest.raises(ValueError, match=r"no \['layer2'\]; it has \['sample_id'.*'layer1.0'"):
        table.read(np.array([0]), ["layer2", "norm"])


def test_of_an_image_that_is_there_twice_the_first_counts(tmp_path):
    """Data sets have duplicates; both have the same targets, and the choice must not depend on the search."""
    expected = arrays()
    for sample in (6, 9):
        expected["sample_id"][sample * VIEWS : (sample + 1) * VIEWS] = expected["sample_id"][VIEWS]
    table = make(tmp_path / "t", expected)
    ids = expected["sample_id"][::VIEWS]
    np.testing.assert_array_equal(table.rows(ids, 0) // VIEWS, [0, 1, 2, 3, 4, 5, 1, 7, 8, 1])


def test_only_the_asked_rows_are_in_memory(tmp_path, monkeypatch):
    """A table is larger than the memory of the machine, and every DataLoader worker opens it."""
    monkeypatch.setattr(target_table, "_BATCH_BYTES", 2**17)
    columns = [Column("x", "float16", (1000,)), Column("y", "bits", (8000,))]
    full = arrays(columns, 2000, 1)
    tracemalloc.start()
    make(tmp_path / "t", full, columns=columns, samples=2000, views=1, samples_per_shard=700)
    written = tracemalloc.get_traced_memory()[1]
    arrow = pa.total_allocated_bytes()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    table = TargetTable.open(tmp_path / "t")
    table.read(table.rows(full["sample_id"][[3, 1500]], 0), ["x", "y"])
    read = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    index = table._ids
    while isinstance(index, np.ndarray):
        index = index.base
    assert isinstance(index, mmap.mmap)
    assert table.nbytes > 6_000_000
    assert written < 1_500_000
    assert read < 300_000
    assert pa.total_allocated_bytes() == arrow


def test_the_table_can_be_sent_to_other_processes(table):
    """DataLoader workers are spawned on some systems, and forked on others."""
    data = pickle.dumps(table)
    assert len(data) < 1000
    assert_equal(pickle.loads(data).read(np.array([4, 28]), ALL), part(arrays(), [4, 28]))

    def read_in_fork():
        assert_equal(table.read(np.array([4, 28]), ALL), part(arrays(), [4, 28]))

    assert in_child(read_in_fork) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda batch: batch.pop("norm"), r"missing \['norm'\]"),
        (lambda batch: batch.update(extra=batch["view"]), r"unknown \['extra'\]"),
        (lambda batch: batch.update(view=batch["view"].astype(np.int64)), r"'view' must be an array int32 \(4,\), got"),
        (lambda batch: batch.update(norm=batch["norm"].astype(np.float32)), "'norm' must be an array float16"),
        (lambda batch: batch.update(norm=batch["norm"].reshape(-1, 6)), r"float16 \(4, 2, 3\), got float16 \(4, 6\)"),
        (lambda batch: batch.update(pixels=batch["pixels"][:3]), r"'pixels' must be an array int64 \(4,\)"),
        (lambda batch: batch.update(pixels=[1, 2, 3, 4]), "got list"),
        (lambda batch: batch.update(top=batch["norm"]), "dict of values, indices and rest"),
        (lambda batch: batch["top"].pop("rest"), "dict of values, indices and rest"),
        (lambda batch: batch["sample_id"].put(1, 7), "row 1: the views of a sample differ in sample_id"),
        (lambda batch: batch["view"].put([0, 1], [1, 0]), "row 0: the views of a sample are not in the order 0 to 2"),
        (lambda batch: batch["norm"].put(13, np.inf), "row 2: 'norm' is not finite in float16"),
        (lambda batch: batch["logits"].put(5, np.nan), "row 1: 'logits' is not finite in float16"),
        (lambda batch: batch["layer1.0"].put(2, 1 << 5), r"row 0: 'layer1.0' has bits set after its \(3, 7\) bits"),
        (lambda batch: batch["top"]["indices"].put(3, 6), "row 1: 'top.indices' is not from 0 to 5"),
        (lambda batch: batch["top"]["indices"].put(3, -1), "row 1: 'top.indices' is not from 0 to 5"),
        (lambda batch: batch["top"]["rest"].put(3, np.nan), "row 3: 'top.rest' is not a number, or infinite"),
    ],
)
def test_what_is_no_target_is_refused_and_leaves_no_shard(tmp_path, small_batches, change, message):
    """Found while training it would be a loss of nan after hours, or no error at all."""
    writer = writer_of(tmp_path / "t")

    def changed():
        for number, batch in enumerate(batches(arrays(), writer.shards[0])):
            if number == 0:
                change(batch)
            yield batch

    with pytest.raises(ValueError, match=message):
        writer.write(writer.shards[0], changed())
    assert not any(shard.done for shard in writer.shards)
    assert not list((tmp_path / "t.incomplete" / ".table" / "data").iterdir())


def test_a_row_that_is_no_target_is_named_by_its_number_in_the_table(tmp_path, small_batches):
    """It is looked up in the data set."""
    writer, full = writer_of(tmp_path / "t"), arrays()
    full["norm"][22, 0, 0] = np.nan
    with pytest.raises(ValueError, match="^row 22: 'norm'"):
        writer.write(writer.shards[1], batches(full, writer.shards[1]))


def test_logits_that_are_all_kept_have_no_rest(tmp_path):
    """The logsumexp of nothing is minus infinity, which is no mistake."""
    columns = [Column("top", "topk", (3, 3))]
    expected = arrays(columns)
    expected["top"]["rest"][:] = -np.inf
    table = make(tmp_path / "t", expected, columns=columns)
    assert_equal(table.read(np.arange(30), ["top"]), {"top": expected["top"]})


@pytest.mark.parametrize(("rows", "message"), [(11, "has 12 rows, and 11 were given"), (13, "12 rows, and more")])
def test_a_shard_has_exactly_its_rows(tmp_path, rows, message):
    """One row too few would shift all that follow."""
    writer = writer_of(tmp_path / "t")
    with pytest.raises(ValueError, match=message):
        writer.write(writer.shards[0], [part(arrays(), slice(0, 5)), part(arrays(), slice(5, rows))])
    assert not writer.shards[0].done


def test_a_source_that_fails_leaves_no_shard(tmp_path, small_batches):
    """The teacher may run out of memory in the middle."""
    writer = writer_of(tmp_path / "t")

    def failing():
        yield from list(batches(arrays(), writer.shards[0]))[:2]
        raise MemoryError

    with pytest.raises(MemoryError):
        writer.write(writer.shards[0], failing())
    assert not writer.shards[0].done
    assert not list((tmp_path / "t.incomplete" / ".table" / "data").iterdir())


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path, small_batches):
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


@pytest.mark.parametrize("step", ["_write_json", "_write_text", "_sync_folder"])
def test_a_run_that_is_killed_while_it_finishes_can_finish_again(tmp_path, monkeypatch, step):
    """The table appears as a whole or not at all, wherever the kill comes."""
    kept = make(tmp_path / "whole" / "table").folder
    writer = writer_of(tmp_path / "table")
    for shard in writer.shards:
        writer.write(shard, batches(arrays(), shard))

    def kill(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patched:
        patched.setattr(target_table, step, kill)
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
    read, first = target_table._write_json, []

    def slow(path, data):
        read(path, data)
        if not first:
            first.append(True)
            other = writer_of(tmp_path / "t", samples_per_shard=5)
            other.write(other.shards[0], batches(arrays(), other.shards[0]))

    monkeypatch.setattr(target_table, "_write_json", slow)
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


def test_long_values_are_shortened_to_where_they_differ():
    """Two settings of a thousand characters that look the same tell nothing."""
    texts = ["x" * 500 + letter + "y" * 500 for letter in "ab"]
    (line,) = identity_differences({"plan": texts[0]}, {"plan": texts[1]})
    assert len(line) < 220
    assert "xxxayyy" in line.split(" in the table, ")[0]
    assert "xxxbyyy" in line.split(" in the table, ")[1]


def test_an_identity_that_was_read_back_is_the_same():
    """JSON makes lists of tuples and text of numbers that are keys; a table would never be gone on with."""
    assert identity_differences({"a": {1: (1, 2), "b": {}}}, {"a": {"1": [1, 2], "b": {}}}) == []
    assert identity_differences({"a": {}}, {"a": {"b": None}}) == [
        "a: {} in the table, nothing in this run",
        "a.b: nothing in the table, null in this run",
    ]


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


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def edit_manifest(folder, **changes):
    path = folder / "hf_abkd_cache.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


SHARD = "data/train-00001-of-00003.arrow"


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda folder: (folder / SHARD).unlink(), FileNotFoundError, "train-00001-of-00003.arrow is missing"),
        (lambda folder: cut(folder / SHARD, -8), ValueError, "00001-of-00003.arrow has .* bytes and should have"),
        (lambda folder: cut(folder / "index.npy", 200), ValueError, "index.npy is damaged"),
        (lambda folder: np.save(folder / "index.npy", np.zeros(3)), ValueError, "index.npy is damaged"),
        (lambda folder: np.save(folder / "index.npy", np.zeros((2, 10))), ValueError, "index.npy is damaged"),
        (lambda folder: np.save(folder / "index.npy", np.zeros((3, 9), int)), ValueError, "index.npy is damaged"),
        (lambda folder: (folder / "index.npy").unlink(), ValueError, "index.npy is damaged or missing"),
        (lambda folder: (folder / "hf_abkd_cache.json").unlink(), FileNotFoundError, "has no hf_abkd_cache.json"),
        (lambda folder: cut(folder / "hf_abkd_cache.json", 50), ValueError, "hf_abkd_cache.json is no JSON"),
        (lambda folder: (folder / "hf_abkd_cache.json").write_text("[]"), ValueError, "has format None"),
        (lambda folder: edit_manifest(folder, format=2), ValueError, "has format 2.*use a newer hf_abkd"),
        (lambda folder: edit_manifest(folder, samples=11), ValueError, "do not have 11 samples"),
        (lambda folder: edit_manifest(folder, views=2), ValueError, "damaged: it has 12 rows and should have 8"),
        (lambda folder: edit_manifest(folder, files=["../a.json"]), ValueError, "further files"),
        (
            lambda folder: edit_manifest(folder, columns=[column.to_json() for column in COLUMNS[:2]]),
            ValueError,
            "damaged: its columns are",
        ),
        (lambda folder: shutil.rmtree(folder), FileNotFoundError, "there is no table in"),
    ],
)
def test_a_damaged_table_is_not_opened(table, damage, error, message):
    """A download that was cut off, or a full disk: the message names the file."""
    damage(table.folder)
    with pytest.raises(error, match=message):
        TargetTable.open(table.folder)


@pytest.mark.parametrize("size", [0, 100, -608])
def test_a_shard_of_the_right_size_that_is_not_whole_is_not_opened(table, size):
    """The file system may have kept the size and lost the bytes; a cut between record batches is no error of Arrow."""
    path = table.folder / SHARD
    content = path.read_bytes()
    path.write_bytes(content[:size] + bytes(len(content[size:])))
    with pytest.raises(ValueError, match="00001-of-00003.arrow is damaged"):
        TargetTable.open(table.folder)


def test_a_shard_that_is_damaged_does_not_get_into_a_table(tmp_path):
    """The last moment at which the teacher can still run again."""
    writer = writer_of(tmp_path / "t")
    for shard in writer.shards:
        writer.write(shard, batches(arrays(), shard))
    cut(tmp_path / "t.incomplete" / ".table" / SHARD, 1000)
    with pytest.raises(ValueError, match="00001-of-00003.arrow is damaged.*Delete this file and run the same command"):
        writer.finish({})
    assert not (tmp_path / "t").exists()


def test_rows_that_are_not_of_equal_width_are_damage(table):
    """Only their width says where a row is: the shard of another program would be read shifted."""
    path = table.folder / SHARD
    rows = pa.ipc.open_stream(path.read_bytes()).read_all()
    values = [*rows["layer1.0"].to_pylist()[:-1], b"1234"]
    place = rows.schema.get_field_index("layer1.0")
    changed = rows.set_column(place, rows.schema.field(place), pa.array(values, pa.binary()))
    with path.open("wb") as file, pa.ipc.new_stream(file, rows.schema) as stream:
        stream.write_table(changed.combine_chunks())
    shards = json.loads((table.folder / "hf_abkd_cache.json").read_text())["shards"]
    shards[1]["bytes"] = path.stat().st_size
    edit_manifest(table.folder, shards=shards)
    with pytest.raises(ValueError, match="rows of 'layer1.0' are not of 3 bytes"):
        TargetTable.open(table.folder)


def assert_rows(rows, expected):
    """Rows as `datasets` gives them."""
    assert len(rows) == SAMPLES * VIEWS
    for number, row in enumerate(rows):
        assert [row[name] for name in ("sample_id", "view", "pixels")] == [
            expected[name][number] for name in ("sample_id", "view", "pixels")
        ]
        assert row["layer1.0"] == expected["layer1.0"][number].tobytes()
        assert row["norm"] == expected["norm"][number].reshape(-1).tolist()
        assert row["logits"] == expected["logits"][number].tolist()
        for key, values in expected["top"].items():
            assert row[f"top.{key}"] == values[number].tolist()


def test_datasets_loads_and_streams_the_folder(table, tmp_path):
    """It is a data set like any other: the viewer of the Hub and other people's scripts read it."""
    loaded = load_dataset(str(table.folder), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train"]
    assert_rows(list(loaded["train"]), arrays())
    assert_rows(list(load_dataset(str(table.folder), streaming=True)["train"]), arrays())
    shard = Dataset.from_file(str(table.folder / SHARD))
    assert shard.features == loaded["train"].features
    assert shard[5]["norm"] == arrays()["norm"][17].reshape(-1).tolist()


FACTS = {
    "teacher": {"name_or_path": "user/teacher", "class": "ViT", "fingerprint": "abc"},
    "dataset": "/home/me/images",
    "processor": {"size": 8, "mean": [0.5, 0.5]},
    "augmentation": "flip | crop",
    "seed": 3,
    "speed": "fast",
    "license": "apache-2.0",
    "usage": "Call `distil`.",
}


def test_the_card_says_what_the_table_holds_and_what_is_known(tmp_path):
    """It is all that a visitor of the Hub has to decide whether the targets fit."""
    folder = make(tmp_path / "t", facts=FACTS).folder
    card = DatasetCard.load(folder / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.configs[0]["data_files"] == [{"split": "train", "path": "data/train-*-of-00003.arrow"}]
    lines = card.text.splitlines()
    for line in (
        "| `layer1.0` | bits | (3, 7) | 3 |",
        "| `norm` | float16 | (2, 3) | 12 |",
        "| `logits` | logits | (5,) | 10 |",
        "| `top` | topk | 2 of 6 | 16 |",
        "| teacher | [user/teacher](https://huggingface.co/user/teacher) |",
        "| SHA-256 of the teacher's tensors | abc |",
        "| data set | a local folder |",
        "| `processor.size` | `8` |",
        "| augmentation | flip \\| crop |",
        "| seed of the augmentation | `3` |",
        "| `speed` | fast |",
        "Call `distil`.",
    ):
        assert line in lines
    assert "10 samples in 3 views of each" in card.text
    assert "license" not in "\n".join(lines)


def test_the_card_guesses_nothing():
    """What is not known must not look as if it were."""
    card = table_card([("x", "bits", "(8,)", 1)], 1, 1, "data/*.arrow", {})
    for word in ("license", "How it was made", "teacher's class", "How to train", "seed"):
        assert word not in card


def test_a_local_folder_is_no_page_of_the_hub(tmp_path, monkeypatch):
    """A link to somebody else's model of the same name would be worse than none."""
    (tmp_path / "runs" / "teacher").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for name in ("runs/teacher", "./runs", "digits"):
        card = table_card([("x", "bits", "(8,)", 1)], 1, 1, "data/*.arrow", {"teacher": {"name_or_path": name}})
        assert f"| teacher | {name} |" in card


def test_the_snippet_of_the_card_runs_as_printed(table, monkeypatch):
    """It is the first thing that a reader tries."""
    monkeypatch.chdir(table.folder)
    names = {}
    exec(re.search(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)[1], names)
    assert_equal(names["targets"], part({"top": arrays()["top"]}, slice(0, 4)))
    assert_rows(list(names["rows"]), arrays())
    published = table_card([("x", "bits", "(8,)", 1)], 1, 1, "data/*.arrow", {"repo_id": "user/x"})
    assert 'TargetTable.from_hub("user/x")' in published
    assert 'load_dataset("user/x", split' in published


EXCHANGE = """
import json, sys
from pathlib import Path
import numpy as np
from datasets import disable_progress_bars, load_dataset
from huggingface_hub import HfApi
from hf_abkd.teachers.cache.table import TargetTable

disable_progress_bars()
home, facts = Path(sys.argv[1]), {}

def error_of(action, *args, **kwargs):
    try:
        return f"no error, but {action(*args, **kwargs)}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"

many, few = TargetTable.open(home / "many"), TargetTable.open(home / "few")
(home / "few" / "notes.pkl").write_bytes(b"not part of the table")
many.push_to_hub("user/targets", private=True)
facts["first"] = few.push_to_hub("targets", commit_message="By hand").oid
facts["private"] = HfApi().dataset_info("user/targets").private
pulled = TargetTable.from_hub("user/targets", cache_dir=home / "hub")
rows = np.array([3, 29, 14])
np.savez(home / "pulled.npz", rows=rows, **pulled.read(rows, ["sample_id", "layer1.0", "norm", "logits"]))
streamed = load_dataset("user/targets", split="train", streaming=True)
facts["streamed"] = [row["sample_id"] for row in streamed]
load_dataset("user/targets")["train"].push_to_hub("user/parquet")
again = load_dataset("user/parquet")["train"]
facts["again"] = [again[29]["norm"], again[29]["top.indices"], again[29]["layer1.0"].hex(), len(again)]
facts["no table"] = error_of(TargetTable.from_hub, "user/parquet", cache_dir=home / "hub")
facts["no repository"] = error_of(TargetTable.from_hub, "user/none", cache_dir=home / "hub")
facts["no revision"] = error_of(few.push_to_hub, "user/targets", revision="v2")
facts["old"] = len(HfApi().list_repo_commits("user/targets", repo_type="dataset"))
(home / "facts.json").write_text(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def exchange(tmp_path_factory):
    home = tmp_path_factory.mktemp("exchange")
    make(home / "many", samples_per_shard=2, facts=FACTS)
    make(home / "few", samples_per_shard=4, facts=FACTS, files={"preprocessor_config.json": "{}"})
    with LoopbackHub() as hub:
        environment = {**hub.environment(home / "cache"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", EXCHANGE, str(home)], env=environment, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stderr[-4000:]
        yield hub, home, json.loads((home / "facts.json").read_text())


def test_exactly_the_files_of_the_table_are_published(exchange):
    """What else lies in the folder is private, and shards of an earlier upload would be read with the new ones."""
    hub, home, facts = exchange
    files = hub.files("user/targets", repo_type="dataset")
    expected = contents(home / "few")
    del expected["notes.pkl"]
    assert files == expected
    assert (
        len(
            [
                name
                for name in hub.files(
                    "user/targets", hub.commits("user/targets", repo_type="dataset")[1].oid, "dataset"
                )
                if name.endswith(".arrow")
            ]
        )
        == 5
    )
    assert facts["private"] is True
    titles = [commit.message for commit in hub.commits("user/targets", repo_type="dataset")]
    assert titles == ["initial commit", "Upload the targets of a teacher", "By hand"]
    assert "RevisionNotFoundError" in facts["no revision"]


def test_a_table_from_the_hub_is_the_one_that_was_pushed(exchange):
    """One machine has the teacher, another trains the student."""
    _, home, facts = exchange
    with np.load(home / "pulled.npz", allow_pickle=False) as pulled:
        rows = pulled["rows"]
        for name in ("sample_id", "layer1.0", "norm", "logits"):
            np.testing.assert_array_equal(pulled[name], arrays()[name][rows], strict=True)
    assert facts["streamed"] == arrays()["sample_id"].tolist()
    assert "FileNotFoundError: there is no table in" in facts["no table"]
    assert "RepositoryNotFoundError" in facts["no repository"]


def test_users_push_the_rows_as_any_data_set(exchange):
    """Parquet is what the viewer shows; every kind of column must survive it."""
    expected = arrays()
    assert exchange[2]["again"] == [
        expected["norm"][29].reshape(-1).tolist(),
        expected["top"]["indices"][29].tolist(),
        expected["layer1.0"][29].tobytes().hex(),
        30,
    ]


@pytest.mark.parametrize(("samples", "shards"), [(100, 1), (5_000, 5), (40_000, 16)])
def test_a_table_of_some_size_is_written_in_parts(tmp_path, samples, shards):
    """In one part, a kill at the end would lose all of it, and a second process would have nothing to do."""
    writer = TableWriter(
        tmp_path / "t", identity={}, columns=[Column("a", "bits", (8 * 4000,))], samples=samples, views=1
    )
    assert len(writer.shards) == shards
