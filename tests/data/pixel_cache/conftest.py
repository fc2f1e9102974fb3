"""Files of images, and shards of a few of them."""

import functools

import pytest
from image_rows import kinds_of_files

from hf_abkd.data.pixel_cache import writing
from hf_abkd.data.table.table_writer import TableWriter


@pytest.fixture(scope="session")
def files():
    return kinds_of_files()


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of two images: a table of one shard could not be half done."""
    monkeypatch.setattr(writing, "TableWriter", functools.partial(TableWriter, shard_bytes=4000))
    monkeypatch.setattr(writing, "_BATCH", 2)
