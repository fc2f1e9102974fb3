"""What a file holds is checked as a whole, and an error names the file, the place and what belongs there."""

from dataclasses import dataclass
from datetime import date

import pytest

from hf_abkd.layers.layout import Layout
from hf_abkd.schema import Finite, NotNegative, Positive, checked, read_json, read_text


@dataclass(frozen=True)
class Inner:
    count: NotNegative


@dataclass(frozen=True)
class Outer:
    name: str
    size: tuple[Positive, Positive]
    share: Finite
    parts: tuple[Inner, ...]
    layout: Layout | None = None


GOOD = {"name": "x", "size": [1, 2], "share": 1, "parts": [{"count": 0}]}


def test_what_fits_becomes_the_schema():
    """Lists become tuples and mappings dataclasses; keys of a later version do no harm."""
    found = checked({**GOOD, "layout": {"order": "NLC", "grid": [2, 3]}, "new": 1}, Outer, origin="it", remedy="")
    assert found == Outer("x", (1, 2), 1.0, (Inner(0),), Layout("NLC", (2, 3)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 1}, "name should be a valid string, got 1"),
        ({"name": None}, "name should be a valid string, got None"),
        ({"size": [1]}, r"size\[1\] is missing"),
        ({"size": [1, True]}, r"size\[1\] should be a valid integer, got True"),
        ({"size": [1, 0]}, r"size\[1\] should be greater than or equal to 1, got 0"),
        ({"share": float("nan")}, "share should be a finite number, got nan"),
        ({"share": "1"}, "share should be a valid number, got '1'"),
        ({"parts": [{"count": 1}, {}]}, r"parts\[1\].count is missing"),
        ({"parts": {}}, "parts should be a valid array"),
        ({"layout": {"order": "NC", "grid": [2, 2]}}, "layout: NC are vectors, which lie on no grid"),
        ({"name": date(2001, 1, 1)}, "date is not JSON serializable"),
        ({"name": 1, "size": 1, "share": None, "parts": None}, "; and 1 more. Do this$"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    """Else it ends somewhere else, as a KeyError, an AttributeError or a wrong number."""
    with pytest.raises(ValueError, match=f"^file.json is damaged: .*{message}"):
        checked({**GOOD, **change}, Outer, origin="file.json", remedy="Do this")


def test_what_is_no_mapping_at_all_is_named():
    """A file may hold an empty list, or refer to itself where it is YAML."""
    with pytest.raises(ValueError, match=r"it is damaged: all of it should be an object, got \[\]\. Do this"):
        checked([], Outer, origin="it", remedy="Do this")
    endless = []
    endless.append(endless)
    with pytest.raises(ValueError, match="it is damaged: Circular reference"):
        checked(endless, Outer, origin="it", remedy="Do this")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe{}", "it is no text in UTF-8"),
        (b'{"a": ', "it is no JSON"),
        (b"", "it is no JSON"),
        (b"[" * 100_000, "it is no JSON"),
    ],
)
def test_a_file_that_is_no_json_is_named(tmp_path, content, message):
    """Full disks cut files off, and editors save them in other encodings."""
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"file.json is damaged: {message}.*Do this"):
        read_json(path, remedy="Do this")


def test_a_file_that_is_not_there_stays_a_missing_file(tmp_path):
    """Callers tell it from damage."""
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "file.json", remedy="Do this")
