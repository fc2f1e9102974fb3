"""A cache that several files of tests read."""

import functools

import pytest
from cached_runs import STAGE, write

from hf_abkd.data.table.table_writer import TableWriter
from hf_abkd.teachers.cache import writing


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of a few images: a table of one shard could not be half done."""
    monkeypatch.setattr(writing, "TableWriter", functools.partial(TableWriter, shard_bytes=2000))


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    """A cache with a column of every kind but top-k; nobody changes it."""
    return write(tmp_path_factory.mktemp("good") / "cache", layers=[STAGE], features=["resnet.embedder.pooler"])
