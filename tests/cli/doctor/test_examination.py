"""An examination as a whole."""

import logging

import patients
import tiny
from transformers import ViTConfig, ViTForImageClassification

from hf_abkd.cli.doctor.checks import CHECKS
from hf_abkd.cli.doctor.examination import examine
from hf_abkd.cli.doctor.findings import Finding


def test_run_without_mistakes_has_no_warning(tmp_path):
    """A doctor that always complains is not read."""
    examined = patients.subject(tmp_path)
    findings = list(examine(examined))
    assert not [one.text() for one in findings if one.level in ("warning", "error")]
    assert {one.check for one in findings} == set(CHECKS) - {"output folder"}


def test_examination_leaves_the_run_as_it_was(tmp_path):
    """Trained from here on, the student must be the one that was handed in: statistics, modes and what is frozen."""
    examined = patients.subject(tmp_path)
    trainer = examined.trainer
    trainer.plan  # noqa: B018 (connectors are made)
    trainer.model.resnet.embedder.eval()
    modules = [trainer.model, *trainer.stage_modules().values()]
    before = tiny.tensors(*modules)
    states = (
        [(p.requires_grad, p.grad) for p in trainer.model.parameters()],
        [m.training for m in trainer.model.modules()],
    )
    assert list(examine(examined))
    assert tiny.differing(before, tiny.tensors(*modules)) == []
    assert states == (
        [(p.requires_grad, p.grad) for p in trainer.model.parameters()],
        [m.training for m in trainer.model.modules()],
    )
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in trainer.model.modules())


def test_exception_in_a_check_is_an_error_and_the_others_go_on(tmp_path):
    """One check that fails must not hide what the others would have found."""

    def broken(_):
        yield Finding("ok", "broken", "half of it is fine")
        raise KeyError("the other half")

    findings = list(examine(patients.subject(tmp_path), {"broken": broken, "labels": CHECKS["labels"]}))
    assert [(one.level, one.check) for one in findings] == [("ok", "broken"), ("error", "broken"), ("note", "labels")]
    assert "KeyError" in findings[1].message and "the other half" in findings[1].message


def test_what_the_package_warns_of_is_a_finding_once(tmp_path, caplog):
    """A warning between the lines of a report is overlooked, and one told twice looks like two."""
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    student = ViTForImageClassification(ViTConfig(**sizes, image_size=16, patch_size=6, num_labels=tiny.CLASSES))
    findings = list(
        examine(patients.subject(tmp_path, student, stages=patients.boundary("vit.layers.1.mlp.activation_fn")))
    )
    cut = [one for one in findings if "leaves the last rows or columns out" in one.message]
    assert [(one.level, one.check) for one in cut] == [("warning", "plan")]
    assert not caplog.records


def test_what_several_checks_find_is_told_once(tmp_path):
    """Five lines of one mistake hide the second one."""

    def noisy(_):
        logging.getLogger("hf_abkd").warning("the images are small.")
        yield Finding("warning", "noisy", "the teacher guesses")

    findings = list(examine(patients.subject(tmp_path), {"first": noisy, "second": noisy}))
    assert [(one.check, one.message) for one in findings] == [
        ("noisy", "the teacher guesses"),
        ("first", "the images are small"),
    ]
