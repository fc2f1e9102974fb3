"""Folders of images that grow batch by batch."""

import json

import numpy as np
import pytest
from datasets import ClassLabel, load_dataset
from invertible import MADE_FROM, fill, pixels

from hf_abkd.methods.deep_inversion.image_shards import ImageShards


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_come_back_bit_by_bit_and_as_images_of_datasets(tmp_path, channels):
    """A lossy format would take away what was optimised."""
    shards = ImageShards(tmp_path / "images", MADE_FROM, ["cat", "dog"])
    given = pixels(3, channels)
    shards.write(0, given, [1, 0, 1], [0.25, 0.5, 1.0], {"step": 3})
    rows = load_dataset("parquet", data_files=[str(shards.file(0))], split="train", cache_dir=str(tmp_path / "cache"))
    assert rows.features["label"] == ClassLabel(names=["cat", "dog"])
    for index, image in enumerate(rows["image"]):
        assert image.mode == ("L" if channels == 1 else "RGB")
        assert np.array_equal(np.atleast_3d(np.asarray(image)), given[index].permute(1, 2, 0).numpy())
    assert list(rows["label"]) == [1, 0, 1]
    assert list(rows["teacher_confidence"]) == [0.25, 0.5, 1.0]
    images, labels, confidence = shards.read(0)
    assert [image.tobytes() for image in images] == [image.tobytes() for image in rows["image"]]
    assert (labels, confidence) == ([1, 0, 1], [0.25, 0.5, 1.0])
    assert shards.about(0, dict[str, int]) == {"step": 3}


def test_a_batch_is_there_as_a_whole_or_not_at_all(shards, monkeypatch):
    """A run that is killed while it writes must make the batch again."""

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("hf_abkd.files.os.fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        fill(shards, 4)
    assert not shards.has(0)
    monkeypatch.undo()
    fill(shards, 4)
    assert len(shards.read(0)[0]) == 4
    assert [file.name for file in shards.file(0).parent.iterdir()] == ["batch-00000.parquet"]


def test_the_same_batch_is_the_same_file(shards, tmp_path):
    """Resumed folders are compared byte by byte."""
    other = ImageShards(tmp_path / "other", MADE_FROM, ["cat", "dog"])
    fill(shards, 4)
    fill(other, 4)
    assert shards.file(0).read_bytes() == other.file(0).read_bytes()


def test_a_folder_of_other_settings_is_refused_with_both_sides(shards):
    """Images of two teachers in one folder could not be told apart."""
    with pytest.raises(ValueError, match="teacher: 'a' there, 'b' here") as error:
        ImageShards(shards.folder, {"teacher": "b", "seed": 1}, ["cat", "dog"])
    assert "seed" not in str(error.value)
    ImageShards(shards.folder, MADE_FROM, ["cat", "dog"])


def test_a_teacher_that_lies_elsewhere_is_the_same_teacher(tmp_path):
    """A folder of models is moved, and the images are those of the same weights."""
    there, here = ({"teacher": {"fingerprint": "a", "name_or_path": path}} for path in ("old/t", "new/t"))
    ImageShards(tmp_path / "images", there, ["cat"])
    ImageShards(tmp_path / "images", here, ["cat"])
    with pytest.raises(ValueError, match="teacher: .*'a'.* there, .*'b'.* here"):
        ImageShards(tmp_path / "images", {"teacher": {"fingerprint": "b", "name_or_path": "old/t"}}, ["cat"])


def test_a_folder_with_other_files_is_refused(tmp_path):
    """It may be anything of the user's."""
    (tmp_path / "thesis.txt").write_text("work")
    with pytest.raises(FileExistsError, match="holds other files"):
        ImageShards(tmp_path, MADE_FROM, ["cat"])


def test_only_batches_without_a_gap_count(shards):
    """What lies behind a gap belongs to a run that is no more."""
    fill(shards, 2, 2, 2)
    assert shards.count() == 3
    shards.remove(1)
    assert shards.count() == 1


def test_settings_are_readable(shards):
    """They say what images were made from, years later."""
    assert json.loads((shards.folder / "settings.json").read_text()) == MADE_FROM
