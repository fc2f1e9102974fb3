"""A target that is encoded and decoded is what the teacher said, as far as its column can hold it."""

import pytest
import tiny
import torch
from cached_runs import ids_and_images, named, rows, write

from hf_abkd.teachers.cache.encoding import as_tensors


@pytest.mark.parametrize("count", [2, 3])
def test_top_classes_have_their_probabilities_and_the_others_what_is_left(tmp_path, count):
    """Without the remaining mass the softmax over k classes would make the teacher too sure of itself."""
    data, teacher = rows(), named(tiny.resnet(8, seed=1, classes=6), "abcdef")
    cache = write(tmp_path / "cache", teacher, data, layers=[], logits=count, views=1, augmentation=None)
    ids, images = ids_and_images(data)
    with torch.no_grad():
        expected = teacher.eval()(images).logits.softmax(1)
    column = cache.table.columns["logits"]
    assert (column.kind, column.shape) == ("topk", (count, 6))
    stored = as_tensors(cache.table.read(cache.table.rows(ids, 0), ["logits"]))
    found = cache.decode(stored, {"logits": column})["logits"].softmax(1)
    top = expected.topk(count, dim=1)
    torch.testing.assert_close(found.gather(1, top.indices), top.values, rtol=2e-3, atol=0)
    torch.testing.assert_close(found.sum(1), torch.ones(24))
    left = found.scatter(1, top.indices, 0)
    shares = (1 - top.values.sum(1, keepdim=True)) / (6 - count)
    torch.testing.assert_close(left, shares.expand(-1, 6).scatter(1, top.indices, 0), rtol=5e-3, atol=1e-5)


@pytest.mark.parametrize("count", [4, 9])
def test_as_many_top_classes_as_there_are_is_all_of_them(tmp_path, count):
    """Indices and a remaining mass of nothing would only cost space."""
    cache = write(tmp_path / "cache", layers=[], logits=count)
    assert cache.table.columns["logits"].kind == "logits"
