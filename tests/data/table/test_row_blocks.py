"""What gets into a table is a target of the row it stands in: nothing is looked at again before a student learns it."""

import numpy as np
import pytest
from target_tables import arrays, assert_equal, batches, make, part, writer_of

from hf_abkd.data.table.columns import Column


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda batch: batch.pop("norm"), r"missing \['norm'\]"),
        (lambda batch: batch.update(extra=batch["view"]), r"unknown \['extra'\]"),
        (lambda batch: batch.update(view=batch["view"].astype(np.int64)), r"'view' must be an array int32 \(4,\), got"),
        (lambda batch: batch.update(norm=batch["norm"].astype(np.float32)), "'norm' must be an array float16"),
        (lambda batch: batch.update(norm=batch["norm"].reshape(-1, 6)), r"float16 \(4, 2, 3\), got float16 \(4, 6\)"),
        (lambda batch: batch.update(pixels=batch["pixels"][:3]), r"'pixels' must be an array int64 \(4,\)"),
        (lambda batch: batch.update(pixels=[1, 2, 3, 4]), "got list"),
        (lambda batch: batch.update(top=batch["norm"]), "dict of values, indices and rest"),
        (lambda batch: batch["top"].pop("rest"), "dict of values, indices and rest"),
        (lambda batch: batch["sample_id"].put(1, 7), "row 1: the views of a sample differ in sample_id"),
        (lambda batch: batch["view"].put([0, 1], [1, 0]), "row 0: the views of a sample are not in the order 0 to 2"),
        (lambda batch: batch["norm"].put(13, np.inf), "row 2: 'norm' is not finite in float16"),
        (lambda batch: batch["logits"].put(5, np.nan), "row 1: 'logits' is not finite in float16"),
        (lambda batch: batch["layer1.0"].put(2, 1 << 5), r"row 0: 'layer1.0' has bits set after its \(3, 7\) bits"),
        (lambda batch: batch["top"]["indices"].put(3, 6), "row 1: 'top.indices' is not from 0 to 5"),
        (lambda batch: batch["top"]["indices"].put(3, -1), "row 1: 'top.indices' is not from 0 to 5"),
        (lambda batch: batch["top"]["rest"].put(3, np.nan), "row 3: 'top.rest' is not a number, or infinite"),
    ],
)
def test_what_is_no_target_is_refused_and_leaves_no_shard(tmp_path, small_blocks, change, message):
    """Found while training it would be a loss of nan after hours, or no error at all."""
    writer = writer_of(tmp_path / "t")

    def changed():
        for number, batch in enumerate(batches(arrays(), writer.shards[0])):
            if number == 0:
                change(batch)
            yield batch

    with pytest.raises(ValueError, match=message):
        writer.write(writer.shards[0], changed())
    assert not any(shard.done for shard in writer.shards)
    assert not list((tmp_path / "t.incomplete" / ".table" / "data").iterdir())


def test_a_row_that_is_no_target_is_named_by_its_number_in_the_table(tmp_path, small_blocks):
    """It is looked up in the data set."""
    writer, full = writer_of(tmp_path / "t"), arrays()
    full["norm"][22, 0, 0] = np.nan
    with pytest.raises(ValueError, match="^row 22: 'norm'"):
        writer.write(writer.shards[1], batches(full, writer.shards[1]))


def test_logits_that_are_all_kept_have_no_rest(tmp_path):
    """The logsumexp of nothing is minus infinity, which is no mistake."""
    columns = [Column("top", "topk", (3, 3))]
    expected = arrays(columns)
    expected["top"]["rest"][:] = -np.inf
    table = make(tmp_path / "t", expected, columns=columns)
    assert_equal(table.read(np.arange(30), ["top"]), {"top": expected["top"]})


@pytest.mark.parametrize(("rows", "message"), [(11, "has 12 rows, and 11 were given"), (13, "12 rows, and more")])
def test_a_shard_has_exactly_its_rows(tmp_path, rows, message):
    """One row too few would shift all that follow."""
    writer = writer_of(tmp_path / "t")
    with pytest.raises(ValueError, match=message):
        writer.write(writer.shards[0], [part(arrays(), slice(0, 5)), part(arrays(), slice(5, rows))])
    assert not writer.shards[0].done


def test_a_source_that_fails_leaves_no_shard(tmp_path, small_blocks):
    """The teacher may run out of memory in the middle."""
    writer = writer_of(tmp_path / "t")

    def failing():
        yield from list(batches(arrays(), writer.shards[0]))[:2]
        raise MemoryError

    with pytest.raises(MemoryError):
        writer.write(writer.shards[0], failing())
    assert not writer.shards[0].done
    assert not list((tmp_path / "t.incomplete" / ".table" / "data").iterdir())
