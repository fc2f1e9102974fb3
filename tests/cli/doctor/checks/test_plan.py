"""Which layers are compared."""

import patients

from hf_abkd import ActivationBoundary, Stage, Term
from hf_abkd.cli.doctor.checks import CHECKS


def test_plan_is_shown_with_its_connectors(tmp_path):
    """Pairs that nobody looked at are the first thing to doubt when a run learns nothing."""
    [plan] = list(CHECKS["plan"](patients.subject(tmp_path)))
    assert plan.level == "ok" and plan.message.startswith("2 pairs of layers, 276 parameters")
    assert "student  resnet.encoder.stages.1.layers.0.activation  16 x 2x2 (NCHW)" in plan.details
    assert "teacher  activation                                   12 x 2x2 (NCHW)" in plan.details


def test_tensor_that_is_overwritten_in_place_is_told(tmp_path):
    """It is copied, which costs memory that a user may want back."""
    stages = [Stage([Term(ActivationBoundary(), student="resnet.encoder.stages.0", teacher="relu:input")])]
    examined = patients.subject(tmp_path, teacher=patients.Knowing(inplace=True), stages=stages)
    assert "1 captured tensor of the teacher overwritten in place" in patients.found(examined, "plan", "note")[0]
