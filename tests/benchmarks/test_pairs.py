"""The benchmark of all pairs of families, on two of them."""

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "pairs.py"


def test_every_pair_of_families_is_a_row(tmp_path):
    """A benchmark that nobody runs for a while stops to run, and its table in the README cannot be made again."""
    file = tmp_path / "pairs.json"
    words = [
        "--students",
        "resnet",
        "vit",
        "--teachers",
        "vit",
        "--steps",
        "4",
        "--processes",
        "1",
        "--json",
        str(file),
    ]
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *words], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    content = json.loads(file.read_text())
    assert (content["pairs"], content["fell"]) == (2, 2)
    assert [(row["student"], row["teacher"]) for row in content["rows"]] == [("resnet", "vit"), ("vit", "vit")]
    assert all(row["count"] == 4 and row["last_loss"] < row["first_loss"] for row in content["rows"])
    assert content["rows"][1]["grid_ratio"] == 1 and content["rows"][1]["depth_difference"] == 0
    assert "2 of 2 pairs of models" in done.stdout
