"""An evaluation as it is told in a terminal."""

from dataclasses import replace

import numpy as np
import pytest

from hf_abkd.models.latency import Latency
from hf_abkd.models.machine import Machine
from hf_abkd.reports.agreement import Agreement
from hf_abkd.reports.class_accuracy import class_changes
from hf_abkd.reports.evaluation import START, Against, Boundaries, Evaluation, ModelEvaluation, PairedBoundary
from hf_abkd.reports.evaluation_text import evaluation_text, run_text
from hf_abkd.reports.intervals import paired_difference, share
from hf_abkd.reports.mcnemar import mcnemar

LABELS = np.arange(60) % 3
OURS, THEIRS = np.arange(60) < 30, np.arange(60) < 54


def model(role, name, right, scale=1, **settings):
    accuracies = [float(right[label == LABELS].mean()) for label in range(3)]
    times = [Latency(1, 40, 2.0 * scale, 1.9 * scale, 2.1 * scale), Latency(32, 40, 8.0 * scale, 7.9, 8.1)]
    counts = {"multiply_adds": 40_551_232 * scale, "weight_bytes": 1_094_320 * scale, "calibration_error": 0.125}
    measured = {**counts, "accuracy": share(right), "class_accuracy": accuracies, "latencies": times}
    return ModelEvaluation(role, name, 270_000 * scale, **{**measured, **settings})


def against(role, name, others):
    changes = class_changes(LABELS, OURS, others, most=3)
    return Against(role, name, paired_difference(OURS, others), mcnemar(OURS, others), changes)


@pytest.fixture
def found():
    models = [
        model("student", "./runs/ab-seed0", OURS, agreement=Agreement(share(OURS), 0.97, 0.25)),
        model("teacher", "owner/large", THEIRS, 4),
    ]
    compared = [against("teacher", "owner/large", THEIRS)]
    return Evaluation("some", 60, ["x", "y", "z"], [20] * 3, models, compared, machine=Machine("C", 2, 1, None, "2"))


def lines(found):
    return "\n".join(evaluation_text(found)).splitlines()


def test_numbers_stand_beside_their_ratios_to_the_teacher(found):
    """A table of numbers alone leaves the division to its reader."""
    told = lines(found)
    assert told[:3] == ["some: 60 images of 3 classes", "", "|  | student ab-seed0 | teacher owner/large |"]
    for row in (
        "| accuracy | 50.00 % (0.56x) | 90.00 % |",
        "| same class as the teacher | 50.00 % |  |",
        "| divergence from the teacher | 0.250 nats |  |",
        "| calibration error (ECE, 15 bins) | 12.50 % | 12.50 % |",
        "| parameters | 270,000 (0.25x) | 1,080,000 |",
        "| multiply-adds of an image | 40.6 M (0.25x) | 162 M |",
        "| weights on the disk | 1.09 MB (0.25x) | 4.38 MB |",
        "| latency, batch of 1 | 2 ms (0.25x) | 8 ms |",
        "| quartiles, batch of 1 | 1.9 to 2.1 ms | 7.6 to 8.4 ms |",
        "| images/s, batch of 32 | 4,000 | 1,000 |",
        "timed on C, 1 thread of 2 cores, torch 2",
        "the student has 0.56 of its teacher's accuracy at 0.25 of the parameters, 0.25 of the multiply-adds, 0.25 of "
        "the time (batch of 1)",
        "| x | 20 | 50.00 % | 90.00 % |",
    ):
        assert row in told
    assert not any("far apart" in line for line in told)


def test_a_difference_is_told_with_what_it_is_worth(found):
    """Of two points on 200 images one half is made of chance, and the larger number wins all the same."""
    told = lines(found)
    assert f"student against teacher owner/large: {paired_difference(OURS, THEIRS)}" in told
    assert "  McNemar's test: p < 0.0001, right alone on 0 images, the other on 24" in told
    assert "  classes that differ most: x -40.0, y -40.0, z -40.0 points" in told
    close = np.arange(60) < 32
    unclear = replace(
        found, models=[*found.models, model("baseline", "b", close)], against=[against("baseline", "b", close)]
    )
    told = lines(unclear)
    assert f"student against baseline b: {paired_difference(OURS, close)}, which may be chance" in told
    alike = replace(found, against=[against("teacher", "owner/large", OURS)])
    assert f"student against teacher owner/large: {paired_difference(OURS, OURS)}" in lines(alike)
    assert "the teacher owner/large knows other classes than the student: there is nothing to compare" in told


def test_many_models_stand_in_several_tables_and_are_told_apart(found):
    """A table that is wider than the terminal is folded into letters."""
    names = ["./one/kd-seed0", "./two/kd-seed0", "/some/where/three"]
    models = [*found.models, *(model("baseline", name, OURS) for name in names)]
    told = lines(replace(found, models=models, against=[]))
    first, second = (line for line in told if line.startswith("|  |"))
    assert first == "|  | student ab-seed0 | teacher owner/large | baseline ./one/kd-seed0 | baseline ./two/kd-seed0 |"
    assert second == "|  | baseline three |"
    assert max(map(len, told)) <= 160


def test_what_is_not_known_is_a_dash(found):
    """A 0 in its place would win every comparison."""
    models = [*found.models, ModelEvaluation("baseline", "other", 10)]
    told = lines(replace(found, models=models))
    assert "| accuracy | 50.00 % (0.56x) | 90.00 % | - |" in told
    assert "| weights on the disk | 1.09 MB (0.25x) | 4.38 MB | - |" in told
    assert "| x | 20 | 50.00 % | 90.00 % | - |" in told


def test_boundaries_are_told_layer_by_layer_or_why_not(found):
    """A missing row looks like a layer that agrees."""
    pairs = [PairedBoundary("a", "b", 0.75), PairedBoundary("c", "d", None, "it takes a connector (linear)")]
    told = lines(replace(found, boundaries=Boundaries(10, pairs)))
    assert "| a | b | 75.00 % |" in told and "| c | d | it takes a connector (linear) |" in told
    assert any(line.startswith("A connector is trained") for line in told) and "over 10 images" in told
    assert "no boundaries are compared: no layers" in lines(
        replace(found, boundaries=Boundaries(10, why_not="no layers"))
    )


def test_times_of_a_busy_machine_are_told(found):
    """A median of two kinds of times says little, and the next run says something else."""
    models = [replace(found.models[0], latencies=[Latency(1, 40, 20.0, 2.0, 50.0)]), found.models[1]]
    assert any("far apart" in line for line in lines(replace(found, models=models)))


def test_a_student_alone_is_told_without_comparisons(found):
    """Half a sentence about a teacher that is not there is a bug to its reader."""
    told = lines(replace(found, models=[replace(found.models[0], agreement=None)], against=[], machine=None))
    assert "| accuracy | 50.00 % |" in told
    assert not any(word in line for line in told for word in ("teacher's", "against", "x)", "timed"))


def test_a_run_is_told_in_one_table_with_its_teacher_first(found):
    """At the end of a run nobody reads six tables; what it began with and what else was tried stand beside it."""
    start = ModelEvaluation(START, "./runs/ab-seed0", 270_000, accuracy=share(np.arange(60) < 6))
    other = replace(found.models[0], role="baseline", name="alone-seed0", latencies=(), agreement=None)
    compared = [
        *found.against,
        against(START, "./runs/ab-seed0", np.arange(60) < 6),
        against("baseline", "alone-seed0", OURS),
    ]
    told = run_text(replace(found, models=[*found.models, start, other], against=compared)).splitlines()
    assert told[:2] == [
        "some: 60 images of 3 classes",
        "|  | teacher owner/large | ab-seed0 before the run | ab-seed0 | alone-seed0 |",
    ]
    for row in (
        "| accuracy | 90.00 % | 10.00 % (0.11x) | 50.00 % (0.56x) | 50.00 % (0.56x) |",
        "| same class as the teacher |  |  | 50.00 % |  |",
        "| parameters | 1,080,000 |  | 270,000 (0.25x) | 270,000 (0.25x) |",
        "| latency, batch of 1 | 8 ms |  | 2 ms (0.25x) |  |",
    ):
        assert row in told
    assert any(line.startswith("ab-seed0 against alone-seed0: +0.0 points") for line in told)
    assert any(line.startswith("ab-seed0 against ab-seed0 before the run: +40.0 points") for line in told)
    assert not any("quartiles" in line or "weakest" in line for line in told)


def test_a_run_without_images_is_told_by_its_costs(found):
    """Rows of dashes, and a count of no images, are read as a failure."""
    models = [
        replace(one, accuracy=None, calibration_error=None, class_accuracy=None, agreement=None) for one in found.models
    ]
    told = run_text(replace(found, count=0, class_names=[], class_counts=[], models=models, against=[]))
    assert told.startswith("|  | teacher owner/large | ab-seed0 |") and "accuracy" not in told and "parameters" in told
