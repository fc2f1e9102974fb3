"""The benchmarks of steps, caches and whole runs, at sizes that show that they still run."""

import json
import multiprocessing
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage

from hf_abkd.objectives import ActivationBoundary

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import cache
import epochs
import pixels
import step_time

FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def tiny_networks(monkeypatch):
    """The smallest networks of the family: what is measured is not looked at here."""
    smallest = step_time.cifar_resnet(8)
    monkeypatch.setattr(cache, "cifar_resnet", lambda depth: smallest)
    case = step_time.CASES["resnet56"]
    monkeypatch.setitem(step_time.CASES, "resnet56", type(case)("tiny", smallest, smallest, 32, 4))


def test_steps_of_all_variants_are_timed(tmp_path, capsys):
    """A benchmark that stopped to run cannot be repeated when a number in the README is doubted."""
    file = tmp_path / "steps.json"
    variants = [name for name in step_time.VARIANTS if name not in step_time.COMPILED]
    words = ["--cases", "resnet56", "resnet50-bf16", "--turns", "2", "--json", str(file), "--variants", *variants]
    assert step_time.main(words) == 0
    found = json.loads(file.read_text())
    assert found["live_over_hand"] > 0 and found["cached_over_plain"] > 0
    rows = {row.get("variant"): row for row in found["rows"]}
    if not torch.cuda.is_available():
        assert [row["result"] for row in found["rows"] if row["case"] == "resnet50-bf16"] == ["not run"]
    assert all(rows[name]["milliseconds"] > 0 for name in variants)
    assert rows["student alone"]["over_alone"] == 1
    assert "student alone" in capsys.readouterr().out


def test_the_loop_by_hand_has_the_loss_of_ours():
    """Another loss would make the comparison of their times one of different things."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (2 * torch.randn(4, 3, 5, 5, generator=generator) for _ in range(2))
    torch.testing.assert_close(step_time.published(student, teacher), ActivationBoundary()(student, teacher))


def test_writing_reading_and_memory_of_a_cache_are_measured(tmp_path, monkeypatch):
    """Likewise."""
    # A process that begins anew would import everything once more.
    monkeypatch.setattr(multiprocessing, "get_context", lambda *_: FORK)
    file = tmp_path / "cache.json"
    sizes = ["--images", "8", "--rows", "50", "--turns", "1", "--views", "1", "2", "--workers", "0"]
    words = [*sizes, "--json", str(file)]
    assert cache.main(words) == 0
    found = json.loads(file.read_text())
    assert found["write_over_teacher"] > 0 and found["reading"]["rows_per_second"] > 0
    assert [row["rows"] for row in found["memory"]] == [50, 500]
    assert found["bits_per_neuron"] > 1


def test_whole_runs_are_compared(tmp_path):
    """Both kinds of a run of one seed end at the same accuracy, or they do not compare the same thing."""
    generator = np.random.default_rng(0)
    features = Features({"img": Image(), "label": ClassLabel(names=["a", "b"])})
    pictures = [PILImage.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(24)]
    rows = Dataset.from_dict({"img": pictures, "label": [0, 1] * 12}, features=features)
    rows.to_parquet(tmp_path / "images.parquet")
    path, file = str(tmp_path / "images.parquet"), tmp_path / "epochs.json"
    depths = ["--teacher_depth", "8", "--student_depth", "8"]
    words = ["--train", path, "--test", path, "--epochs", "3", "--seeds", "0", *depths, "--json", str(file)]
    assert epochs.main(words) == 0
    found = json.loads(file.read_text())
    assert found["live"]["accuracy"] == found["cached"]["accuracy"]
    assert [row["teacher"] for row in found["rows"]] == ["live", "cached"]


def test_the_ways_to_pixels_are_timed(tmp_path, capsys):
    """Likewise."""
    file = tmp_path / "pixels.json"
    words = ["--sizes", "32x40", "--megapixels", "0.005", "--side", "8", "--turns", "2", "--json", str(file)]
    assert pixels.main(words) == 0
    found = json.loads(file.read_text())["sizes"]["32x40"]
    assert found["images"] == 3 and found["over_plain"]["plain"] == 1
    assert all(rate > 0 for rate in found["images_per_second"].values())
    assert 0 < found["reduced_differs"]["mean"] < 2
    assert "plain" in capsys.readouterr().out
