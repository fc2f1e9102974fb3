"""Whether the teacher knows the data: every mistake is made here, and must be found."""

import patients
import tiny


def test_random_teacher_is_found(tmp_path):
    """The commonest silent mistake: a checkpoint that was not loaded, or the wrong one."""
    assert patients.found(patients.subject(tmp_path, teacher=tiny.resnet(8, seed=1)), "teacher", "warning")


def test_teacher_with_its_classes_in_another_order_is_found(tmp_path):
    """Without names no other check can see it: the teacher is good, and teaches the wrong classes."""
    warning = patients.found(
        patients.subject(tmp_path, teacher=patients.Knowing(order=[1, 2, 3, 0])), "teacher", "warning"
    )
    assert "accuracy 0.0%" in warning[0] and "in the order of this data set" in warning[0]


def test_good_teacher_of_two_unequal_classes_is_not_suspected(tmp_path, monkeypatch):
    """Of two classes with shares of 70 and 30 % no teacher is one and a half times as good as guessing."""
    examined = patients.subject(tmp_path)
    scores = {"teacher_accuracy": 0.95, "chance_accuracy": 0.7}
    monkeypatch.setattr(examined.trainer, "evaluate_teacher", lambda _: scores)
    patients.only(examined, "teacher", "ok")
    scores["teacher_accuracy"] = 0.75
    patients.only(examined, "teacher", "warning")
