"""A teacher's targets must come back as they were stored, or not at all: a wrong row trains on another image."""

import json
import math
import mmap
import pickle
import shutil
import tracemalloc
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, load_dataset
from target_tables import (
    ALL,
    COLUMNS,
    FORKING,
    IDENTITY,
    SAMPLES,
    SHARD,
    VIEWS,
    arrays,
    assert_equal,
    assert_rows,
    cut,
    edit_manifest,
    in_child,
    make,
    part,
)

from hf_abkd.data.table import row_blocks
from hf_abkd.data.table.columns import Column
from hf_abkd.data.table.target_table import TargetTable

pytestmark = pytest.mark.filterwarnings(FORKING)


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
    monkeypatch.setattr(row_blocks, "_BLOCK_BYTES", 2**17)
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
        (
            lambda folder: cut(folder / "hf_abkd_cache.json", 50),
            ValueError,
            "hf_abkd_cache.json is damaged: it is no JSON",
        ),
        (lambda folder: (folder / "hf_abkd_cache.json").write_text("[]"), ValueError, "has format None"),
        (lambda folder: edit_manifest(folder, format=2), ValueError, "has format 2.*use a newer hf_abkd"),
        (lambda folder: edit_manifest(folder, samples=11), ValueError, "do not have 11 samples"),
        (lambda folder: edit_manifest(folder, views=2), ValueError, "damaged: it has 12 rows and should have 8"),
        (lambda folder: edit_manifest(folder, files=["../a.json"]), ValueError, "further files"),
        (lambda folder: edit_manifest(folder, samples="9"), ValueError, "samples should be a valid integer, got '9'"),
        (lambda folder: edit_manifest(folder, shards=[{"bytes": 3}]), ValueError, r"shards\[0\].samples is missing"),
        (lambda folder: edit_manifest(folder, identity=[]), ValueError, "identity should be an object"),
        (lambda folder: edit_manifest(folder, columns=None), ValueError, "columns should be a valid array, got None"),
        (lambda folder: (folder / "hf_abkd_cache.json").write_bytes(b"\xff{}"), ValueError, "no text in UTF-8"),
        (lambda folder: (folder / "hf_abkd_cache.json").write_text("[" * 10**5), ValueError, "is damaged: it is no"),
        (
            lambda folder: edit_manifest(folder, columns=[asdict(column) for column in COLUMNS[:2]]),
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


def test_datasets_loads_and_streams_the_folder(table, tmp_path):
    """It is a data set like any other: the viewer of the Hub and other people's scripts read it."""
    loaded = load_dataset(str(table.folder), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train"]
    assert_rows(list(loaded["train"]), arrays())
    assert_rows(list(load_dataset(str(table.folder), streaming=True)["train"]), arrays())
    shard = Dataset.from_file(str(table.folder / SHARD))
    assert shard.features == loaded["train"].features
    assert shard[5]["norm"] == arrays()["norm"][17].reshape(-1).tolist()
