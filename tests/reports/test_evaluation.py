"""What an evaluation found, as data."""

import json

import numpy as np
import pytest

from hf_abkd.models.latency import Latency
from hf_abkd.models.machine import Machine
from hf_abkd.reports.agreement import agreement
from hf_abkd.reports.class_accuracy import class_changes
from hf_abkd.reports.evaluation import Against, Boundaries, Evaluation, ModelEvaluation, PairedBoundary
from hf_abkd.reports.intervals import paired_difference, share
from hf_abkd.reports.mcnemar import mcnemar

LABELS = np.array([0, 1] * 5)
OURS, THEIRS = np.arange(10) < 6, np.arange(10) < 8


def model(role, right, scale, **settings):
    measured = {"accuracy": share(right), "corrupted": {"jpeg 3": share(right)}, "class_accuracy": [0.5, None]}
    times = [Latency(1, 40, 2.0 * scale, 1.0 * scale, 3.0 * scale), Latency(8, 40, 10.0 * scale, 9.0, 11.0)]
    counts = {"parameters": 100 * scale, "multiply_adds": 1000 * scale, "weight_bytes": 400 * scale}
    return ModelEvaluation(role, role[0], **{**counts, **measured, "latencies": times, **settings})


@pytest.fixture
def found():
    said = np.log(np.full((10, 2), 0.5, np.float32))
    student = model("student", OURS, 1, agreement=agreement(said, said))
    against = Against(
        "teacher",
        "t",
        paired_difference(OURS, THEIRS),
        mcnemar(OURS, THEIRS),
        class_changes(LABELS, OURS, THEIRS, most=2),
    )
    boundaries = Boundaries(10, [PairedBoundary("a", "b", 0.75), PairedBoundary("c", "d", None, "it takes one")])
    models = [student, model("teacher", THEIRS, 4), ModelEvaluation("baseline", "b", 50)]
    return Evaluation("some", 10, ["x", "y"], [5, 5], models, [against], boundaries, Machine("C", 2, 1, None, "2"))


def test_ratios_are_those_to_the_teacher(found):
    """Upside down, a model of a quarter of the size reads as one four times as large."""
    student, teacher, baseline = found.models
    assert student.ratios_to(teacher) == pytest.approx(
        {
            "accuracy": 0.75,
            "accuracy, jpeg 3": 0.75,
            **dict.fromkeys(["parameters", "multiply_adds", "weight_bytes", "latency_1", "latency_8"], 0.25),
        }
    )
    assert baseline.ratios_to(teacher) == {"parameters": 0.125}
    assert "accuracy" not in student.ratios_to(model("teacher", OURS & False, 4))


def test_content_is_json_that_a_report_can_read(found):
    """A number of numpy, or one that only the object computes, is missing in the file."""
    content = json.loads(json.dumps(found.content()))
    student, teacher, _ = content["models"]
    assert content["form"] == 1 and content["count"] == 10 and content["class_counts"] == [5, 5]
    assert student["accuracy"]["value"] == 0.6 and student["ratios_to_teacher"]["parameters"] == 0.25
    assert student["latencies"][1]["images_per_second"] == pytest.approx(800)
    assert student["latencies"][0]["batch_size"] == 1 and student["agreement"]["top_1"]["value"] == 1
    assert teacher["agreement"] is None and teacher["class_accuracy"] == [0.5, None]
    assert content["against"][0]["test"] == {"only_one": 0, "only_other": 2, "p_value": 0.5}
    assert content["boundaries"]["pairs"][1]["why_not"] == "it takes one"
    assert content["machine"]["threads"] == 1


def test_without_a_teacher_there_are_no_ratios(found):
    """Ratios to whatever stands first would be read as those to the teacher."""
    alone = Evaluation("some", 10, ["x", "y"], [5, 5], found.models[:1])
    assert alone.teacher is None and alone.content()["models"][0]["ratios_to_teacher"] is None
