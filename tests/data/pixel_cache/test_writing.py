"""A pixel cache is written whole, goes on where it stopped, and takes no more of the disk than there is."""

import logging
import shutil
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor

import processors
import pytest
import torch
from image_rows import rows_of
from transformers import default_data_collator

from hf_abkd.data.decoding import SampleError
from hf_abkd.data.pixel_cache import writing
from hf_abkd.data.pixel_cache.pixel_cache import PixelCache
from hf_abkd.data.pixel_cache.writing import write_pixels
from hf_abkd.data.transform import ImageTransform, prepare

Usage = namedtuple("Usage", "total used free")


def prepared(files, processor=None):
    return prepare(rows_of(files), ImageTransform(processor or processors.vit()))


def test_the_size_is_told_before_it_is_spent(tmp_path, files, caplog):
    """ImageNet at 224 pixels takes 190 GB."""
    with caplog.at_level(logging.WARNING):
        cache = write_pixels(tmp_path / "pixels", prepared(files))
    assert f"writing the pixels of 6 images to {tmp_path / 'pixels'}: 10.5 kB of " in caplog.text
    assert 6 * 3 * 24 * 24 < cache.table.nbytes < 1.3 * 6 * 3 * 24 * 24
    assert "6 images as ViTImageProcessorPil resized" in (tmp_path / "pixels" / "README.md").read_text()


def test_a_disk_that_is_too_small_is_refused_before_anything_is_decoded(tmp_path, files, monkeypatch):
    """A run would end with a full disk after hours."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**6, 0, 5000))
    monkeypatch.setattr(writing, "_rows_of_shards", lambda *_: pytest.fail("images were decoded"))
    with pytest.raises(OSError, match=r"would take 10\.5 kB, and 5\.0 kB are free there"):
        write_pixels(tmp_path / "pixels", prepared(files))


@pytest.mark.usefixtures("small_shards")
def test_writing_goes_on_where_it_was_interrupted(tmp_path, files, monkeypatch, caplog):
    """Decoding a million images again because of the last one would cost hours."""
    broken = [*files[:5], b"no image"]
    with pytest.raises(SampleError, match="row 5 .*cannot be read"):
        write_pixels(tmp_path / "pixels", prepared(broken))
    assert not (tmp_path / "pixels").exists()
    with pytest.raises(ValueError, match="was begun for another table"):
        write_pixels(tmp_path / "pixels", prepared(files))
    shutil.rmtree(tmp_path / "pixels.incomplete")
    decode, seen = ImageTransform._decoded, []

    def until_the_third_batch(self, values):
        seen.extend(values)
        if len(seen) > 4:
            raise KeyboardInterrupt
        return decode(self, values)

    monkeypatch.setattr(writing, "_THREADS", 1)
    with monkeypatch.context() as patch:
        patch.setattr(ImageTransform, "_decoded", until_the_third_batch)
        with pytest.raises(KeyboardInterrupt):
            write_pixels(tmp_path / "pixels", prepared(files))
    caplog.clear()
    cache = write_pixels(tmp_path / "pixels", prepared(files))
    assert "going on with" in caplog.text and "4 rows of it are written" in caplog.text
    whole = write_pixels(tmp_path / "whole", prepared(files))
    for name in ("pixel_values", "sample_id"):
        rows = [default_data_collator(list(one.attach(prepared(files))))[name] for one in (cache, whole)]
        assert torch.equal(*rows)


def test_a_complete_cache_is_returned_as_it_is(tmp_path, files):
    """The same command again, or another run, decodes nothing."""
    first = write_pixels(tmp_path / "pixels", prepared(files))
    [shard] = (tmp_path / "pixels" / "data").iterdir()
    written = shard.stat().st_mtime_ns
    again = write_pixels(tmp_path / "pixels", prepared(files[::-1]))
    assert shard.stat().st_mtime_ns == written and again.table.samples == first.table.samples == 6
    assert PixelCache.load(tmp_path / "pixels").layout == first.layout


def test_data_sets_of_two_processors_are_not_written_into_one(tmp_path, files):
    """Half of the rows would be those of another."""
    with pytest.raises(ValueError, match="another image processor"):
        write_pixels(tmp_path / "pixels", prepared(files), prepared(files, processors.vit(20)))


def test_files_are_read_as_they_are_needed(monkeypatch):
    """All files of a shard would lie in memory: of large photographs many times as much as their pixels."""
    monkeypatch.setattr(writing, "_THREADS", 2)
    taken, most = [], 0
    arguments = ((taken.append(number) or number,) for number in range(50))
    with ThreadPoolExecutor(2) as pool:
        for count, number in enumerate(writing._in_order(pool, lambda number: number, arguments)):
            assert number == count
            most = max(most, len(taken) - count)
    assert len(taken) == 50 and most <= 3
