"""A data set over batches that become more."""

import pickle

import pytest
from invertible import fill, pixels
from torch.utils.data import DataLoader
from transformers import ViTImageProcessorPil

from hf_abkd.data.transform import ImageTransform
from hf_abkd.methods.deep_inversion.growing_images import GrowingImages


def growing(shards, length, seed=0):
    processor = ViTImageProcessorPil(size={"height": 6, "width": 5}, do_normalize=False, do_rescale=False)
    return GrowingImages(shards, length, ImageTransform(processor), seed=seed)


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
    with pytest.raises(ValueError, match="length must be a whole number, 1 or more"):
        growing(shards, 0)
    with pytest.raises(ValueError, match=r"are missing: \[1\]"):
        growing(shards, 4).show(2)
    with pytest.raises(IndexError):
        growing(shards, 4)[4]


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
