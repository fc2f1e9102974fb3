"""Folders of images that grow batch by batch."""

import json
import pickle

import numpy as np
import pytest
import torch
from datasets import ClassLabel, load_dataset
from torch.utils.data import DataLoader
from transformers import ViTImageProcessorPil

from hf_abkd.data.transform import ImageTransform
from hf_abkd.methods.deep_inversion.image_shards import GrowingImages, ImageShards

MADE_FROM = {"teacher": "a", "seed": 1}


def pixels(count=4, channels=3, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, 6, 5), dtype=torch.uint8, generator=generator)


@pytest.fixture
def shards(tmp_path):
    return ImageShards(tmp_path / "images", MADE_FROM, ["cat", "dog"])


def fill(shards, *sizes, start=0):
    for index, size in enumerate(sizes, start=start):
        labels = [row % 2 for row in range(size)]
        shards.write(index, pixels(size, seed=index), labels, [0.5] * size, {"step": 10 * index})


def growing(shards, length, seed=0):
    processor = ViTImageProcessorPil(size={"height": 6, "width": 5}, do_normalize=False, do_rescale=False)
    return GrowingImages(shards, length, ImageTransform(processor), seed=seed)


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
    assert shards.about(0) == {"step": 3}


def test_a_batch_is_there_as_a_whole_or_not_at_all(shards, monkeypatch):
    """A run that is killed while it writes must make the batch again."""

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("hf_abkd.methods.deep_inversion.image_shards.os.fsync", killed)
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


# ---- The growing data set ----


def rows_of(dataset):
    """The rows of an epoch as hashable pixels."""
    return [bytes(row["pixel_values"].numpy().tobytes()) for row in dataset]


def test_each_row_comes_as_often_as_any_other(shards):
    """A row that comes twice as often weighs twice as much."""
    fill(shards, 4, 3)
    counts = {}
    for row in rows_of(growing(shards, 15)):
        counts[row] = counts.get(row, 0) + 1
    assert sorted(counts.values()) == [2] * 6 + [3]


def test_with_more_rows_than_the_length_all_of_them_come_sooner_or_later(shards):
    """Rows behind the length would never be read, and those are the ones made last."""
    fill(shards, 8)
    dataset = growing(shards, 4)
    seen, first = set(), rows_of(dataset)
    assert len(set(first)) == 4
    for index in range(1, 8):
        fill(shards, 1, start=index)
        dataset.show(index + 1)
        seen |= set(rows_of(dataset))
    assert len(seen) > 12


def test_new_rows_are_read_when_they_are_shown_and_not_before(shards):
    """A loader reads ahead; what it reads must not depend on when a file appeared."""
    fill(shards, 4)
    dataset = growing(shards, 12)
    before = rows_of(dataset)
    fill(shards, 4, start=1)
    assert rows_of(dataset) == before
    dataset.show(2)
    assert len(set(rows_of(dataset))) == 8
    dataset.show(1)
    assert rows_of(dataset) == before
    assert dataset.visible == 1


def test_the_order_depends_on_the_seed_and_the_visible_batches_alone(shards):
    """A resumed run reads what an uninterrupted one would."""
    fill(shards, 4, 4)
    one, other = growing(shards, 8), growing(shards, 8)
    assert rows_of(one) == rows_of(other)
    one.show(1)
    rows_of(one)
    one.show(2)
    assert rows_of(one) == rows_of(other)
    assert rows_of(growing(shards, 8, seed=1)) != rows_of(other)


def test_a_batch_that_was_made_anew_is_read_anew(shards):
    """A second run in one process would train on the files of the first."""
    fill(shards, 4, 4)
    dataset = growing(shards, 8)
    before = set(rows_of(dataset))
    dataset.show(1)
    rows_of(dataset)
    shards.remove(1)
    shards.write(1, pixels(4, seed=77), [0] * 4, [0.5] * 4, {})
    dataset.show(2)
    assert len(set(rows_of(dataset)) & before) == 4


@pytest.mark.parametrize("persistent", [False, True])
def test_worker_processes_see_new_rows(shards, persistent):
    """They were started before the rows were there."""
    fill(shards, 4)
    dataset = growing(shards, 8)
    loader = DataLoader(dataset, batch_size=4, num_workers=1, persistent_workers=persistent)
    assert len({bytes(x.numpy().tobytes()) for batch in loader for x in batch["pixel_values"]}) == 4
    fill(shards, 4, start=1)
    dataset.show(2)
    assert len({bytes(x.numpy().tobytes()) for batch in loader for x in batch["pixel_values"]}) == 8


def test_labels_stay_with_their_images(shards):
    """Rows are looked up in two places."""
    fill(shards, 3, 4)
    wanted = {
        image.tobytes(): label for index in range(2) for image, label in zip(*shards.read(index)[:2], strict=True)
    }
    for row in growing(shards, 7):
        key = row["pixel_values"].permute(1, 2, 0).contiguous().numpy().tobytes()
        assert wanted[key] == row["labels"]


def test_impossible_sets_are_refused(shards):
    """Each would end in an error deep in a data loader."""
    with pytest.raises(ValueError, match="0 batches of"):
        growing(shards, 4)
    fill(shards, 2)
    with pytest.raises(ValueError, match="length must be at least 1"):
        growing(shards, 0)
    with pytest.raises(ValueError, match=r"are missing: \[1\]"):
        growing(shards, 4).show(2)
    with pytest.raises(IndexError):
        growing(shards, 4)[4]


def test_settings_are_readable(shards):
    """They say what images were made from, years later."""
    assert json.loads((shards.folder / "settings.json").read_text()) == MADE_FROM


def test_a_worker_that_is_spawned_opens_the_files_itself(shards):
    """Open files do not travel to another process."""
    fill(shards, 4)
    dataset = growing(shards, 4)
    rows = rows_of(dataset)
    state = dataset.__getstate__()
    assert state["_tables"] == []
    del state["_visible"]
    pickle.dumps(state)
    assert rows_of(dataset) == rows
