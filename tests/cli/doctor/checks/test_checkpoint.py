"""Whether what is saved is what was trained."""

import patients
import tiny
import torch

from hf_abkd.models import saving


def test_tensor_that_is_not_restored_is_found(tmp_path, monkeypatch):
    """The published student would not be the trained one."""
    examined = patients.subject(tmp_path)
    patients.only(examined, "checkpoint", "ok")
    monkeypatch.setattr(saving, "restore_student", lambda *_: None)
    assert "not what they were after saving and loading: student" in patients.only(examined, "checkpoint", "error")


def test_state_that_is_not_saved_is_found(tmp_path):
    """What lies in a plain attribute or a buffer that is not saved is lost on the disk."""
    student = tiny.resnet(4)
    student.classifier[0].register_buffer("shift", torch.zeros(1), persistent=False)
    student.classifier[0].register_forward_hook(lambda module, _, output: output + 1)
    assert "gives other logits" in patients.only(patients.subject(tmp_path, student), "checkpoint", "error")
