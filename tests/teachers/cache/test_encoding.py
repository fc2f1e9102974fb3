"""A target that is encoded and decoded is what the teacher said, as far as its column can hold it."""

import pytest
import tiny
import torch
from cached_runs import ids_and_images, named, rows, write

from hf_abkd.boundaries.packing import pack_signs
from hf_abkd.data.table.columns import Column
from hf_abkd.teachers.cache.encoding import as_tensors, compare, decode, encode, example

# One of every kind, for a teacher with five classes and a layer of (3, 7).
COLUMNS = [
    Column("layer", "bits", (3, 7)),
    Column("layer", "float16", (3, 7)),
    Column("logits", "logits", (5,)),
    Column("logits", "topk", (2, 5)),
]


def said(column, count=4):
    shape = column.shape if column.name == "layer" else (5,)
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.kind)
def test_what_was_encoded_is_what_the_teacher_said(column):
    """Whoever verifies a cache must find nothing but rounding where nothing is wrong."""
    responses = said(column)
    stored = as_tensors({"": encode(responses, column)})[""]
    distance = compare(responses, stored, column)
    assert distance.moved == 0 and (distance.values <= distance.rounding + 1e-6).all()
    other = compare(responses.flip(0), stored, column)
    assert (other.values > other.rounding + 1e-2).any()
    assert (other.moved > 0) == (column.kind == "bits")


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.kind)
def test_what_was_encoded_lies_as_the_column_says(column):
    """The table is written of these arrays, and refuses others after the teacher has run."""
    arrays = column.divide(encode(said(column), column))
    assert set(arrays) == {field.name for field in column.fields}
    for field in column.fields:
        expected = field.shape if field.row_shape is None else field.row_shape
        assert arrays[field.name].dtype == field.dtype and arrays[field.name].shape == (4, *expected)


def test_terms_get_packed_sides_and_float32_values():
    """A boundary objective reads the bits themselves; all others compare numbers."""
    decoded = [decode(as_tensors({"": encode(said(column), column)})[""], column) for column in COLUMNS]
    assert torch.equal(decoded[0], pack_signs(said(COLUMNS[0])))
    torch.testing.assert_close(decoded[1], said(COLUMNS[1]), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(decoded[2], said(COLUMNS[2]), rtol=1e-3, atol=1e-4)
    assert decoded[3].dtype == torch.float32 and decoded[3].shape == (4, 5)
    assert (example(COLUMNS[0], 2).dtype, example(COLUMNS[1], 2).shape) == (torch.bool, (2, 3, 7))


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
