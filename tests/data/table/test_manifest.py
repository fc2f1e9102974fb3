"""Two tables are told apart by what their targets depend on, and the message says what differs."""

from hf_abkd.data.table.manifest import identity_differences


def test_long_values_are_shortened_to_where_they_differ():
    """Two settings of a thousand characters that look the same tell nothing."""
    texts = ["x" * 500 + letter + "y" * 500 for letter in "ab"]
    (line,) = identity_differences({"plan": texts[0]}, {"plan": texts[1]})
    assert len(line) < 220
    assert "xxxayyy" in line.split(" in the table, ")[0]
    assert "xxxbyyy" in line.split(" in the table, ")[1]


def test_an_identity_that_was_read_back_is_the_same():
    """JSON makes lists of tuples and text of numbers that are keys; a table would never be gone on with."""
    assert identity_differences({"a": {1: (1, 2), "b": {}}}, {"a": {"1": [1, 2], "b": {}}}) == []
    assert identity_differences({"a": {}}, {"a": {"b": None}}) == [
        "a: {} in the table, nothing in this run",
        "a.b: nothing in the table, null in this run",
    ]
