"""Which classes of the models and of the data are the same."""

import patients
import tiny


def test_unnamed_classes_are_told_to_be_assumed(tmp_path):
    """An assumption that nobody is told of is a mistake that nobody can find."""
    assert "assumed" in patients.only(patients.subject(tmp_path), "labels", "note")


def test_permuted_and_partly_known_classes_are_told(tmp_path):
    """What is compared with what decides whether the logits teach anything."""
    student, teacher = tiny.resnet(4), tiny.resnet(8, seed=1)
    patients.name_classes(student, patients.NAMES), patients.name_classes(teacher, patients.NAMES[::-1])
    assert "another order, matched by name" in patients.only(
        patients.subject(tmp_path, student, teacher), "labels", "note"
    )
    patients.name_classes(teacher, ["ant", "bee", "emu", "fox"])
    examined = patients.subject(tmp_path, student, teacher, patients.boundary(teacher=patients.LAYER))
    assert "2 of the student's 4" in patients.only(examined, "labels", "warning")
    patients.name_classes(teacher, ["elk", "gnu", "emu", "fox"])
    examined = patients.subject(tmp_path, student, teacher, patients.boundary(teacher=patients.LAYER))
    assert "logits cannot be compared" in patients.only(examined, "labels", "note")
    assert "not defined" in patients.only(examined, "teacher", "note")
