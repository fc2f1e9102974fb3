"""Whether every tensor that a stage trains gets a gradient."""

import math
import re

import patients
import tiny
from tiny_runs import published
from torch import nn

from hf_abkd import ActivationBoundary, CrossEntropy, Stage, Term


class Mute(nn.Module):
    """A connector whose output is multiplied by 0."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(16, 12, 1)

    def forward(self, maps):
        return self.convolution(maps) * 0


def test_dead_connector_is_found_by_name(tmp_path):
    """The loss of such a layer looks alive and moves nothing."""
    terms = [Term(ActivationBoundary(), student=patients.LAYER, teacher="activation", connector=Mute(), name="mute")]
    examined = patients.subject(tmp_path, stages=[Stage([*terms, Term(CrossEntropy())], "both")])
    [warning] = patients.found(examined, "gradients", "warning")
    assert "stage 'both': zero in both batches for 2 of" in warning
    assert "connector.convolution.weight of term 'mute'" in warning


def test_gradient_that_is_not_finite_is_an_error(tmp_path):
    """One NaN spreads to every weight in the first step."""
    student = tiny.resnet(4)
    student.classifier[1].weight.data[0, 0] = math.nan
    examined = patients.subject(tmp_path, student, stages=[Stage([Term(CrossEntropy())], "labels")])
    assert "not finite for" in patients.found(examined, "gradients", "error")[0]
    assert "is nan in float32 already" in patients.found(examined, "precision", "error")[0]


def test_what_no_term_reaches_is_told_and_what_no_stage_trains_is_warned_of(tmp_path):
    """A head that is never trained is published with random weights."""
    examined = patients.subject(tmp_path)
    [note] = patients.found(examined, "gradients", "note")
    assert "no term reaches 2 of the student's" in note and "classifier.1.weight" in note
    assert not patients.found(examined, "gradients", "warning")
    [warning] = patients.found(patients.subject(tmp_path, stages=patients.boundary()), "gradients", "warning")
    assert "no stage trains 2 tensors of the student: classifier.1.weight" in warning


def test_a_stage_that_reaches_little_of_the_student_is_warned_of(tmp_path):
    """It trains the stem for a third of the run, and nothing that comes later."""
    layers = [("resnet.embedder.embedder.activation", "activation")]
    examined = patients.subject(tmp_path, stages=published(layers))
    [warning] = patients.found(examined, "gradients", "warning")
    assert re.search(r"reaches 3 of the student's \d+ tensors \(\d+%\).*no term reaches resnet.encoder", warning)


def test_parameters_that_are_frozen_by_name_are_no_finding(tmp_path):
    """Who froze them knows."""
    stages = [Stage([Term(CrossEntropy())], "labels", freeze=["*.embedder*"])]
    assert patients.only(patients.subject(tmp_path, stages=stages), "gradients", "ok")
