"""Small tables of targets, made of random numbers: their rows, how they are written, and how they are damaged."""

import json
import math
import multiprocessing

import numpy as np

from hf_abkd.data.table.columns import Column
from hf_abkd.data.table.table_writer import TableWriter

SAMPLES, VIEWS = 10, 3
COLUMNS = (
    Column("layer1.0", "bits", (3, 7)),
    Column("norm", "float16", (2, 3)),
    Column("logits", "logits", (5,)),
    Column("top", "topk", (2, 6)),
)
IDENTITY = {"teacher": {"name": "a/b", "fingerprint": "1" * 64}, "size": (3, 8, 8), "seed": 0}
ALL = ["sample_id", "view", "pixels", *(column.name for column in COLUMNS)]
SHARD = "data/train-00001-of-00003.arrow"
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
# Forking is deprecated where other threads may hold locks; the children here use none of theirs.
FORK = multiprocessing.get_context("fork")
FORKING = "ignore:.*multi-threaded, use of fork:DeprecationWarning"


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


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def in_child(action):
    """Run something in a forked process; return its exit code, which is minus the signal that killed it."""
    child = FORK.Process(target=action)
    child.start()
    child.join(60)
    return child.exitcode


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def edit_manifest(folder, **changes):
    path = folder / "hf_abkd_cache.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
