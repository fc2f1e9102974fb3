"""The grid of boundary samples and routes, and the race to KD's accuracy: what they run, and what their tables say."""

import json
import sys
from pathlib import Path

from hf_abkd.stages.arguments import DistillationArguments
from hf_abkd.stages.lengths import stage_arguments

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import samples_and_routes
import time_to_accuracy
from samples_and_routes import ARMS, Bench


def test_every_arm_makes_stages_that_fill_the_run(tmp_path):
    """Shares that do not add up would end the grid in its second hour."""
    run = DistillationArguments(str(tmp_path), use_cpu=True, max_steps=240, learning_rate=0.1)
    anchors = [tmp_path / f"anchor-{number}" for number in range(samples_and_routes.ANCHORS)]
    for name, stages_of in ARMS.items():
        stages = stages_of(anchors)
        assert sum(arguments.max_steps for arguments in stage_arguments(run, stages)) == 240, name
        assert any(stage.route is not None for stage in stages) == name.startswith("RCO"), name
        moved = any(stage.extension is not None for stage in stages)
        assert moved == name.startswith("BSS"), name


def test_the_best_arms_are_run_again_with_other_seeds(tmp_path, monkeypatch, capsys):
    """A winner of the search that is told with the seeds it won by is a winner by luck."""
    asked = []

    def result(bench, arm, seed):
        asked.append((arm, seed))
        better = {"KD, the default": 0.2, "BSS, weight 8": 0.3, "RCO, last 4": 0.1}.get(arm, 0.0)
        return {"arm": arm, "seed": seed, "accuracy": 0.5 + better + 0.001 * seed * better, "seconds": 3.0}

    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "accuracy.json").write_text("0.9")
    monkeypatch.setattr(Bench, "result", result)
    monkeypatch.setattr(Bench, "teacher", lambda bench: None)
    assert samples_and_routes.main(["--folder", str(tmp_path), "--json", str(tmp_path / "found.json")]) == 0
    again = {arm for arm, seed in asked if seed in samples_and_routes.EVIDENCE_SEEDS}
    assert again == {"alone", "KD, the default", "BSS, weight 8", "RCO, last 4"}
    told = capsys.readouterr().out.partition("other seeds")[2]
    assert "| BSS, weight 8 | 80." in told and "+10.0 points" in told and "-10.0 points" in told
    assert len(json.loads((tmp_path / "found.json").read_text())["evidence"]) == 20


def test_a_time_counts_where_the_accuracy_was_reached():
    """A budget that is short of the accuracy of the loop by hand would pass for a fast one."""
    runs = [("KD by hand", 1.0, 0.7, 100.0), ("AB cached", 0.2, 0.69, 20.0), ("AB cached", 0.4, 0.75, 40.0)]
    results = [
        {"way": way, "share": share, "seed": seed, "accuracy": accuracy + 0.01 * seed, "seconds": seconds}
        for way, share, accuracy, seconds in runs
        for seed in (0, 1)
    ]
    lines = time_to_accuracy.table(results).splitlines()[2:]
    assert "0.20 (0.20 to 0.20)" in lines[1] and "0 of 2" in lines[1]
    assert "0.40 (0.40 to 0.40)" in lines[2] and "2 of 2" in lines[2]
