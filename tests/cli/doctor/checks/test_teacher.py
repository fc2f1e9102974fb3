"""Whether the teacher knows the data: every mistake is made here, and must be found."""

import patients
import pytest
import tiny

ORDER = [1, 2, 3, 0]


def measured(monkeypatch, examined, *accuracies, chance=0.25):
    """The rows on which the teacher was measured, of which each says another accuracy than the one before."""
    asked, answers = [], iter(accuracies)

    def evaluate_teacher(rows):
        asked.append(len(rows))
        return {"teacher_accuracy": next(answers), "chance_accuracy": chance}

    monkeypatch.setattr(examined.trainer, "evaluate_teacher", evaluate_teacher)
    return asked


def test_random_teacher_is_an_error_where_its_logits_teach(tmp_path):
    """The commonest silent mistake: a checkpoint that was not loaded, or the wrong one."""
    examined = patients.subject(tmp_path, teacher=patients.Knowing(order=[0, 0, 0, 0]))
    examined.trainer.eval_dataset = tiny.images(512, seed=1)
    assert "A teacher that guesses teaches nothing" in patients.found(examined, "teacher", "error")[0]


def test_teacher_with_its_classes_in_another_order_is_found(tmp_path):
    """Without names no other check can see it: the teacher is good, and teaches the wrong classes."""
    with pytest.raises(ValueError, match="in another order"):
        patients.found(patients.subject(tmp_path, teacher=patients.Knowing(order=ORDER)), "teacher", "error")


def test_random_teacher_of_features_alone_is_a_warning(tmp_path, monkeypatch):
    """Features of an untrained network teach something, if little."""
    examined = patients.subject(tmp_path, stages=patients.boundary())
    measured(monkeypatch, examined, 0.1)
    patients.only(examined, "teacher", "warning")


def test_good_teacher_is_known_by_few_images(tmp_path, monkeypatch):
    """The doctor takes seconds."""
    examined = patients.subject(tmp_path)
    examined.trainer.eval_dataset = tiny.images(128, seed=1)
    asked = measured(monkeypatch, examined, 0.9)
    patients.only(examined, "teacher", "ok")
    assert asked == [64]


def test_more_images_are_asked_until_they_tell(tmp_path, monkeypatch):
    """On 16 images a teacher of 40 % was as often suspected as not."""
    examined = patients.subject(tmp_path)
    examined.trainer.eval_dataset = tiny.images(2048, seed=1)
    asked = measured(monkeypatch, examined, 0.40, 0.44, 0.45)
    assert "accuracy 45.0% on 1,024 images" in patients.only(examined, "teacher", "ok")
    assert asked == [64, 256, 1024]


def test_what_few_images_do_not_tell_is_not_claimed(tmp_path, monkeypatch):
    """A false alarm about a good teacher costs an afternoon, and the trust in the next one."""
    examined = patients.subject(tmp_path)
    examined.trainer.eval_dataset = tiny.images(12, seed=1)
    asked = measured(monkeypatch, examined, 0.33)
    [note] = patients.found(examined, "teacher", "note")
    assert "too few images to tell it from guessing" in note and "It lies between 10.3% and 67.8%" in note
    assert asked == [12]


@pytest.mark.parametrize(("accuracy", "level"), [(0.99, "ok"), (0.6, "error")])
def test_good_teacher_of_two_unequal_classes_is_not_suspected(tmp_path, monkeypatch, accuracy, level):
    """Of two classes with shares of 70 and 30 % no teacher is one and a half times as good as guessing."""
    examined = patients.subject(tmp_path)
    measured(monkeypatch, examined, accuracy, chance=0.7)
    patients.only(examined, "teacher", level)


def test_student_that_is_its_teacher_is_an_error(tmp_path, caplog):
    """The same folder for both passed in silence, and the first gradient of the teacher was 1e-7."""
    examined = patients.subject(
        tmp_path, tiny.resnet(4, seed=1), tiny.resnet(4, seed=1), patients.boundary(teacher=patients.LAYER)
    )
    examined.trainer.plan  # noqa: B018 (tells it, too)
    assert "the student is its teacher" in patients.found(examined, "teacher", "error")[0]
    assert caplog.text.count("the student is its teacher") == 1
    other = patients.subject(
        tmp_path, tiny.resnet(4), tiny.resnet(4, seed=1), patients.boundary(teacher=patients.LAYER)
    )
    assert not [text for text in patients.found(other, "teacher", "error") if "its teacher" in text]
