import pytest
import torch

from hf_abkd.models.label_spaces import match_labels
from hf_abkd.teachers.class_order import check_order, decided_order, moved_classes

TRUTH = torch.arange(60) % 6


def matched(student, teacher, count):
    """Match lists of names."""
    return match_labels(
        *(None if names is None else dict(enumerate(names)) for names in (student, teacher)), count, count
    )


def test_classes_at_each_others_places_are_found():
    """Two classes of six exchanged leave an accuracy of two thirds, which looks like a teacher that is merely weak."""
    answers = TRUTH.clone()
    answers[TRUTH == 1], answers[TRUTH == 4] = 4, 1
    # It errs as well.
    answers[torch.tensor([1, 10, 3, 9])] = 0
    found = moved_classes(TRUTH, answers, 6)
    assert found is not None and found.answers == {1: 4, 4: 1}
    assert (found.right, found.meant) == (0.0, 0.9)


@pytest.mark.parametrize(
    "answers",
    [
        TRUTH,
        torch.zeros_like(TRUTH),
        torch.randint(6, (60,), generator=torch.Generator().manual_seed(0)),
        torch.where(TRUTH == 1, 4, TRUTH),
        torch.where(
            (TRUTH == 1) & (torch.arange(60) > 20), 4, torch.where((TRUTH == 4) & (torch.arange(60) > 20), 1, TRUTH)
        ),
    ],
    ids=["right", "always the same", "guessing", "blind for one class", "often exchanging two"],
)
def test_a_weak_teacher_is_not_taken_for_a_permuted_one(answers):
    """A run that is refused for a teacher's honest errors could not be made at all."""
    found = moved_classes(TRUTH, answers, 6)
    assert found is None or found.meant > 4 * found.right > 0


def test_too_few_images_show_nothing():
    """Two images of two classes are exchanged by half of all guesses."""
    assert moved_classes(torch.tensor([0, 1]), torch.tensor([1, 0]), 2) is None


@pytest.mark.parametrize("teacher", [None, ["ant", "bee", "cat", "dog", "eel", "fox"]])
def test_a_permuted_teacher_is_refused_with_the_names_that_would_be_right(teacher):
    """With names in the wrong order it teaches as confidently as with the right ones."""
    match = matched(["ant", "bee", "cat", "dog", "eel", "fox"], teacher, 6)
    with pytest.raises(
        ValueError, match=r"takes images of 'ant' for 'fox', 'bee' for 'ant'.*right on 0\.0%.* on 100\.0%"
    ) as error:
        check_order(TRUTH, TRUTH.roll(1), match)
    assert "0: 'bee', 1: 'cat', 2: 'dog', 3: 'eel', 4: 'fox', 5: 'ant'" in str(error.value)
    assert "The data has ['ant', 'bee'" in str(error.value)
    check_order(TRUTH, TRUTH, match)
    check_order(torch.full((60,), -100), TRUTH, match)


def test_the_new_names_are_those_of_the_teachers_own_numbers():
    """By the student's numbers they would be wrong again, where the teacher has more classes."""
    student, teacher = {0: "ant", 1: "bee"}, {0: "elk", 1: "bee", 2: "fox", 3: "ant"}
    match = match_labels(student, teacher, 2, 4)
    truth = torch.arange(20) % 2
    with pytest.raises(ValueError, match="stood for 3: 'bee', 1: 'ant'"):
        check_order(truth, 1 - truth, match)


def test_of_two_orders_the_one_that_the_answers_speak_for_is_taken():
    """Folders "0", "1", "10", "11", "2" are sorted as text, and a teacher may have learnt them as numbers."""
    names = ["0", "1", "10", "11", *map(str, range(2, 10))]
    match = matched(names, None, 12)
    truth = torch.arange(120) % 12
    by_number = torch.tensor([int(name) for name in names])[truth]
    assert match.kind == "assumed" and match.alternative is not None
    found = decided_order(match, truth, by_number)
    assert (found.kind, found.alternative) == ("permuted", None)
    logits = torch.eye(12)[by_number]
    assert torch.equal(found.teacher_in_student_space(logits).argmax(1), truth)
    assert "of 100 images whose class differs the teacher is right on 100 so, and on 0" in found.describe()
    kept = decided_order(match, truth, truth)
    assert (kept.kind, kept.alternative) == ("assumed", None)
    kept.check_logits("kd")


def test_a_teacher_with_numbers_for_names_is_matched_from_the_other_side():
    """A student of plain integers, and a teacher that was trained on folders."""
    match = matched(None, ["0", "1", "10", "2"], 4)
    assert match.alternative is not None and match.alternative.teacher_classes == (0, 1, 3, 2)


@pytest.mark.parametrize("answers", [torch.zeros(120, dtype=torch.long), torch.empty(0, dtype=torch.long)])
def test_two_orders_of_which_nothing_speaks_for_either_are_refused(answers):
    """Either would be a guess, and half of them train on permuted classes."""
    names = [*map(str, sorted(range(12), key=str))]
    found = decided_order(matched(names, None, 12), (torch.arange(120) % 12)[: len(answers)], answers)
    assert found.alternative is not None
    with pytest.raises(
        ValueError, match=r"either of two orders: that of .* '0', '1', '10'.*numbers in them, '0', '1', '2'"
    ):
        found.check_logits("kd")
