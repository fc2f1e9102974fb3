"""The manifest's columns are all that says how the bytes of a table are to be read."""

from dataclasses import asdict

import pytest
from target_tables import COLUMNS

from hf_abkd.data.table.columns import Column
from hf_abkd.schema import checked


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.kind)
def test_a_column_survives_json(column):
    """The manifest is all that says how the bytes are to be read."""
    assert checked(asdict(column), Column, origin="it", remedy="") == column


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", "bits", (3,)), "needs a name"),
        (("pixels", "bits", (3,)), "needs a name other than"),
        (("x", "int8", (3,)), "kind must be one of"),
        (("x", "bits", ()), "shape must be that of a row"),
        (("x", "float16", (3, 0)), "positive whole numbers"),
        (("x", "logits", (3, 4)), r"shape must be \(K,\)"),
        (("x", "topk", (3,)), r"shape must be \(k, K\)"),
        (("x", "topk", (3, 2)), "no 3 largest of 2"),
    ],
)
def test_an_impossible_column_is_refused(arguments, message):
    """Before the teacher has run for hours."""
    with pytest.raises(ValueError, match=message):
        Column(*arguments)


def test_a_column_of_the_hub_that_is_none_is_refused():
    """A manifest comes from elsewhere."""
    with pytest.raises(ValueError, match="kind is missing; shape is missing"):
        checked({"name": "x"}, Column, origin="it", remedy="")
