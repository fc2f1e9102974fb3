"""What a finished run left."""

import json
import math
from pathlib import Path

import pytest

from hf_abkd.cli.comparison import Outcome
from hf_abkd.cli.run_report.run_log import RunLog, run_log
from hf_abkd.cli.side_by_side import found_runs
from hf_abkd.reports.figures.line_chart import Span


def read(folder="run"):
    (found,) = found_runs([Path(folder)])
    return run_log(found)


def test_curves_are_those_of_the_log(finished):
    """A number at the wrong step draws another training."""
    log = finished("run")
    run = read()
    assert run.curve("loss").steps == [10, 20, 30, 40]
    assert run.curve("loss").values == [entry["loss"] for entry in log if "loss" in entry]
    assert run.curve("eval_accuracy").values == [pytest.approx(0.7), 0.8]
    assert run.terms == ["knowledge_distillation", *(f"activation_boundary/stages.{one}.act" for one in (0, 1))]
    assert run.named("boundary_agreement/") == ["stages.0.act", "stages.1.act"]


def test_stages_are_those_of_the_run_or_as_far_as_its_log_tells(finished):
    """Without checkpoints there is no note of the stages, and the log knows where the next one had begun."""
    finished("run")
    assert read().spans == [Span("initialization", 0, 22), Span("classes", 22, 40)]
    assert read().teacher_parameters == 9_000_000
    finished("bare", note=False)
    assert read("bare").spans == [Span("stage 1", 0, 20), Span("stage 2", 20, 40)]
    assert read("bare").teacher_parameters is None


def test_what_is_no_number_is_left_out():
    """One infinite loss makes all the others a flat line."""
    log = [{"loss": value, "step": step} for step, value in enumerate([1.0, math.inf, math.nan, "2", None, 3])]
    curve = RunLog(Path("run"), Outcome("a", 0, 1, log)).curve("loss")
    assert (curve.steps, curve.values) == ([0, 5], [1.0, 3.0])


def test_a_damaged_note_is_told(finished):
    """Stages that are left out in silence look like a run of one."""
    finished("run")
    Path("run/finished_run.json").write_text(json.dumps({"checkpoint": 3}))
    with pytest.raises(ValueError, match=r"run/finished_run\.json is damaged"):
        read()
