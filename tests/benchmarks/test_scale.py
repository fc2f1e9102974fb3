"""The benchmark of scale, at sizes that show that it still runs, and what it would tell of a run that is not flat."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import gpu_checks
import scale


def test_a_long_run_and_many_shards_are_measured(tmp_path, capsys):
    """A benchmark that stopped to run cannot be repeated when a number in the documentation is doubted."""
    file = tmp_path / "scale.json"
    words = ["--parts", "opening", "run", "--samples", "5000", "--images", "500", "--shards", "20", "--json", str(file)]
    assert scale.main(words) == 0
    found = json.loads(file.read_text())
    assert found["opening"]["shards"] == 20 and 0 < found["opening"]["open_seconds"] < 1
    run = found["run"]
    assert (run["samples"], len(run["tenths"])) == (5000, 10)
    assert all(tenth["steps_per_second"] > 0 for tenth in run["tenths"])
    assert all(tenth["highest_megabytes"] >= tenth["own_megabytes"] > 0 for tenth in run["tenths"])
    assert "the last over the second" in capsys.readouterr().out


def test_a_run_that_becomes_slower_is_told(monkeypatch):
    """A mean over the whole run, or the first tenth in it, would hide what comes later."""
    watch = scale.Watch(100)
    watch.ends = np.cumsum([0.1] * 90 + [0.4] * 10).tolist()
    watch.memory = [{"own": 100 + tenth, "highest": 200} for tenth in range(10)]
    figures = watch.figures()
    assert figures["speed_last_over_second"] == pytest.approx(0.25)
    assert figures["memory_last_over_second"] == pytest.approx(109 / 101)


class Here:
    """A process that is none: another start of Python takes as long as all of these tests."""

    def __init__(self, command, env):
        assert env["WORLD_SIZE"] == "1"
        self.code = scale.main(command[2:])

    def wait(self):
        return self.code


def test_caches_are_written_and_compared(tmp_path, monkeypatch):
    """A writer that is never started here breaks unseen; that processes write equal caches is tested elsewhere."""
    monkeypatch.setattr(scale.writing, "TableWriter", scale.writing.TableWriter)
    monkeypatch.setattr(scale.subprocess, "Popen", Here)
    found = scale.writers(tmp_path, scale.argparse.Namespace(written=8, writers=[1], turns=2))
    assert found["equal"] and found["images_per_second"][1] > 0 and found["over_one"] == {1: 1}


def test_the_checks_of_a_gpu_say_that_there_is_none(tmp_path, capsys):
    """What was not measured must not look as if it had been."""
    file = tmp_path / "checks.json"
    assert gpu_checks.main(["--json", str(file), "--steps", "1", "--batch", "2"]) == 0
    rows = json.loads(file.read_text())["rows"]
    assert [row["precision"] for row in rows] == ["fp16", "bf16"]
    if not torch.cuda.is_available():
        assert {row["result"] for row in rows} == {"not run"} and "result: not run" in capsys.readouterr().out
