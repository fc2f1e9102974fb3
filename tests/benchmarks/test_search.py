"""The search behind the defaults, and the tables of comparisons."""

import json
import sys
from pathlib import Path

import pytest

from hf_abkd.methods import BOUNDARY_WEIGHT, INITIALIZATION_SHARE
from hf_abkd.models.start import Start
from hf_abkd.stages.arguments import DistillationArguments
from hf_abkd.stages.lengths import stage_arguments
from hf_abkd.stages.suited_arguments import SuitedArguments

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import evidence
import settings_search


def test_every_trial_can_be_run_and_is_one_of_its_own(tmp_path):
    """A setting that is misspelt ends the search in its third hour; two trials with one file are one."""
    run = DistillationArguments(str(tmp_path), use_cpu=True, num_train_epochs=20, learning_rate=0.1)
    for trial in settings_search.TRIALS:
        assert set(trial) <= set(settings_search.AUTHORS)
        for arguments in stage_arguments(run, settings_search.stages_of({**settings_search.AUTHORS, **trial})):
            assert arguments.num_train_epochs > 0
    paths = {settings_search.path_of(trial, tmp_path) for trial in settings_search.TRIALS}
    assert len(paths) == len(settings_search.TRIALS)


def test_what_was_chosen_is_the_default(tmp_path):
    """The tables would be those of other settings than a user gets."""
    chosen = {**settings_search.AUTHORS, **settings_search.CHOSEN}
    assert (chosen["share"], chosen["boundary_weight"]) == (INITIALIZATION_SHARE, BOUNDARY_WEIGHT)
    given = DistillationArguments(str(tmp_path), use_cpu=True, per_device_train_batch_size=chosen["batch_size"])
    suited = SuitedArguments(Start(trained=False, batch_norm=True)).filled(given)
    assert suited.learning_rate == chosen["learning_rate"]
    assert suited.weight_decay == settings_search.OPTIMIZERS[chosen["optimizer"]]["weight_decay"]


def test_differences_of_a_comparison_are_told_against_kd(tmp_path, capsys):
    """Two means leave it to the reader to guess whether their difference is noise."""
    for method, accuracies in {"KD": (0.5, 0.6), "AB, then KD": (0.6, 0.75), "student alone": (0.5, 0.5)}.items():
        for seed, accuracy in enumerate(accuracies):
            folder = tmp_path / "runs" / f"{method}-{seed}"
            folder.mkdir(parents=True)
            log = [{"eval_accuracy": 0.1}, {"eval_accuracy": accuracy}, {"train_runtime": 60.0}]
            outcome = {"model": method, "seed": seed, "parameters": 9, "log": log, "measured": {}}
            (folder / "outcome.json").write_text(json.dumps(outcome))
    (tmp_path / "runs" / "runs.json").write_text(json.dumps({"max_train_samples": 7}))
    assert evidence.main([str(tmp_path / "runs"), "--json", str(tmp_path / "found.json")]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][2:]
    assert [row.split(" | ")[0] for row in rows] == ["| student alone", "| KD", "| AB, then KD"]
    assert "+12.5 points" in rows[2] and "60 s" in rows[2]
    content = json.loads((tmp_path / "found.json").read_text())["runs"]
    assert content["settings"]["max_train_samples"] == 7 and len(content["runs"]) == 6
    (tmp_path / "runs").rename(tmp_path / "others")
    assert evidence.main([str(tmp_path / "others"), "--json", str(tmp_path / "found.json")]) == 0
    assert set(json.loads((tmp_path / "found.json").read_text())) == {"runs", "others"}
    with pytest.raises(SystemExit):
        evidence.main([str(tmp_path)])
