"""The benchmark of all pairs of families, on two of them."""

import json
import multiprocessing
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import pairs

FORK = multiprocessing.get_context("fork")


def test_every_pair_of_families_is_a_row(tmp_path, monkeypatch, capsys):
    """A benchmark that nobody runs for a while stops to run, and its table in the README cannot be made again."""
    file = tmp_path / "pairs.json"
    words = ["--students", "resnet", "vit", "--teachers", "vit", "--steps", "4", "--processes", "1"]
    monkeypatch.setattr("sys.argv", ["pairs.py", *words, "--json", str(file)])
    # A process that begins anew would import everything once more.
    monkeypatch.setattr(multiprocessing, "get_context", lambda *_: FORK)
    assert pairs.main() == 0
    content = json.loads(file.read_text())
    assert (content["pairs"], content["fell"]) == (2, 2)
    assert [(row["student"], row["teacher"]) for row in content["rows"]] == [("resnet", "vit"), ("vit", "vit")]
    assert all(row["count"] == 4 and row["last_loss"] < row["first_loss"] for row in content["rows"])
    assert content["rows"][1]["grid_ratio"] == 1 and content["rows"][1]["depth_difference"] == 0
    assert "2 of 2 pairs of models" in capsys.readouterr().out
