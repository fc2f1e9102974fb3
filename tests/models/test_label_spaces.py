import pickle

import pytest
import torch
from transformers import ResNetConfig

from hf_abkd.models.label_spaces import match_labels

ANIMALS = ["cat", "dog", "owl", "fox"]
IMAGENET = [f"thing {index}" for index in range(1000)]


def match(student, teacher, num_student=None, num_teacher=None):
    """Match two lists of names, or None, as models' configs hold them."""
    mappings = [None if names is None else dict(enumerate(names)) for names in (student, teacher)]
    return match_labels(*mappings, num_student or len(student), num_teacher or len(teacher))


# Kinds ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student", "teacher", "kind", "classes", "description"),
    [
        (ANIMALS, ANIMALS, "same", ((0, 1, 2, 3), (0, 1, 2, 3)), "have the same 4 classes in the same order"),
        (ANIMALS, ["owl", "cat", "fox", "dog"], "permuted", ((0, 1, 2, 3), (1, 3, 0, 2)), "another order, matched"),
        (["owl", "dog"], ANIMALS, "subset", ((0, 1), (2, 1)), "2 of the teacher's 4 classes are the student's 2"),
        (ANIMALS, ["owl", "dog"], "superset", ((1, 2), (1, 0)), "2 of the student's 4 classes are the teacher's 2"),
        (ANIMALS, ["elk", "owl", "cat"], "overlap", ((0, 2), (2, 1)), "2 of the student's 4 classes are among the te"),
        (ANIMALS, ["elk", "ant"], "disjoint", ((), ()), "none of the student's 4 classes is among the teacher's 2"),
        (ANIMALS, ["elk", "owl"], "disjoint", ((2,), (1,)), "only 'owl' of the student's 4 classes is among"),
    ],
    ids=["same", "permuted", "subset", "superset", "overlap", "disjoint", "one shared"],
)
def test_classes_are_matched_by_name(student, teacher, kind, classes, description):
    """By index, a student would be taught that a dog is an owl."""
    found = match(student, teacher)
    assert (found.kind, found.student_classes, found.teacher_classes) == (kind, *classes)
    assert (found.num_student, found.num_teacher) == (len(student), len(teacher))
    assert description in found.describe()


def test_ten_of_a_thousand_classes_are_found():
    """The usual case on the Hub: an ImageNet teacher, and a student for a few of its classes."""
    chosen = [7, 3, 999, 500, 0, 41, 42, 43, 44, 45]
    found = match([IMAGENET[index] for index in chosen], IMAGENET)
    assert found.kind == "subset"
    assert found.teacher_classes == tuple(chosen)
    assert found.describe() == "10 of the teacher's 1000 classes are the student's 10"


def test_spelling_does_not_matter():
    """Data sets and models write the same classes as "Polar_Bear" and "polar bear"."""
    found = match([" Polar_Bear", "T-shirt", "STRASSE"], ["t shirt", "straße", "polar -_ bear"])
    assert (found.kind, found.teacher_classes) == ("permuted", (2, 0, 1))
    assert match(["Polar_Bear", "owl"], ["polar bear", "OWL"]).kind == "same"
    assert match(["caf\u00e9", "owl"], ["cafe\u0301", "owl_"]).kind == "same"


def test_names_that_differ_in_spelling_alone_are_compared_exactly():
    """ "Cardigan" the dog and "cardigan" the garment are two classes; one would take the other's probability."""
    found = match(["cardigan", "owl"], ["Cardigan", "cardigan", "owl"])
    assert (found.kind, found.teacher_classes) == ("subset", (1, 2))
    assert match(["cardigan", "OWL"], ["Cardigan", "cardigan", "owl"]).kind == "disjoint"


def test_keys_may_be_digits():
    """Configs read as plain JSON have text as keys, and not in the order of the numbers."""
    found = match_labels({"1": "dog", "0": "cat"}, {"0": "dog", "1": "cat"}, 2, 2)
    assert (found.kind, found.student_names, found.teacher_classes) == ("permuted", ("cat", "dog"), (1, 0))


# No names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student", "teacher", "unnamed"),
    [
        (None, ANIMALS, "the student have"),
        (ANIMALS, None, "the teacher have"),
        (ANIMALS, [], "the teacher have"),
        (None, None, "the student and of the teacher have"),
        (ANIMALS, [f"LABEL_{index}" for index in range(4)], "the teacher have"),
        (["LABEL_0", "LABEL_1"], ANIMALS, "the student have"),  # transformers' default, in a model with another head
        (["0", "1", "2", "3"], ANIMALS, "the student have"),
        (ANIMALS, ["0", "1", "2", "3"], "the teacher have"),
    ],
)
def test_without_names_equal_counts_are_assumed_to_be_the_same_classes(student, teacher, unnamed):
    """A teacher from a research repository has no names; refusing it would be pedantic, and hiding it wrong."""
    found = match(student, teacher, 4, 4)
    assert (found.kind, found.student_classes, found.teacher_classes) == ("assumed", (0, 1, 2, 3), (0, 1, 2, 3))
    assert f"the classes of {unnamed} no names: the teacher's 4 are assumed" in found.describe()
    found.check_logits("kd")


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        (None, IMAGENET),
        (ANIMALS, [f"LABEL_{index}" for index in range(1000)]),
        (["0", "1", "2", "3"], IMAGENET),
        (["0", "1", "2", "3"], [str(index) for index in range(1000)]),
    ],
    ids=["none", "default", "numbers", "numbers on both sides"],
)
def test_without_names_unequal_counts_are_unknown(student, teacher):
    """Taken for a subset, CIFAR-10's class 3 would be taught as CIFAR-100's class 3."""
    found = match(student, teacher, 4, 1000)
    assert (found.kind, found.student_classes, found.teacher_classes) == ("unknown", (), ())
    assert "have no names, and the student has 4, the teacher 1000" in found.describe()


def test_default_names_of_transformers_are_known():
    """If transformers names them otherwise one day, all models without names would match each other by name."""
    config = ResNetConfig(num_labels=3)
    assert match_labels(config.id2label, {0: "cat", 1: "dog", 2: "owl"}, 3, 3).kind == "assumed"


def test_numbers_that_both_models_mean_are_names():
    """A digit is called by its number; a teacher of all digits knows the student's 3 and 7."""
    digits = [str(index) for index in range(10)]
    assert match(digits, digits).kind == "same"
    found = match(["7", "3"], digits)
    assert (found.kind, found.teacher_classes) == ("subset", (7, 3))


@pytest.mark.parametrize(
    ("names", "count", "message"),
    [
        ({0: "cat", 1: "dog"}, 3, "student names 2 classes, .* gives 3 logits; class 2 has no name"),
        ({0: "cat", 2: "dog"}, 2, "student names 2 classes, .* gives 2 logits; class 1 has no name"),
        ({0: "cat", 1: "dog", 2: "owl"}, 2, "student names 3 classes, .* gives 2 logits. Set"),
    ],
)
def test_names_that_do_not_fit_the_logits_are_refused(names, count, message):
    """The names of another head would send each probability to a wrong class."""
    with pytest.raises(ValueError, match=message):
        match_labels(names, dict(enumerate(ANIMALS)), count, 4)


# Repeated names ------------------------------------------------------------------------------------------------------


def test_repeated_names_in_the_same_order_are_the_same():
    """ImageNet has two classes "crane", and every ImageNet teacher and student would be refused."""
    names = ["crane", "owl", "crane"]
    found = match(names, names)
    assert (found.kind, found.teacher_classes) == ("same", (0, 1, 2))


@pytest.mark.parametrize("student", [["owl", "crane", "crane"], ["owl", "crane"]])
def test_a_repeated_name_is_not_matched(student):
    """The crane on the building site would be taught as the bird."""
    with pytest.raises(ValueError, match=r"'crane' stand for several classes"):
        match(student, ["crane", "owl", "crane"])
    with pytest.raises(ValueError, match=r"'crane' stand for several classes"):
        match(["crane", "owl", "crane"], student)


def test_a_repeated_name_that_only_one_model_has_disturbs_nobody():
    """ImageNet's cranes are no reason against a student of cats and dogs."""
    found = match(["dog", "cat"], ["crane", "cat", "crane", "dog"])
    assert (found.kind, found.teacher_classes) == ("subset", (3, 1))
    found = match(["crane", "cat", "crane", "dog"], ["dog", "cat"])
    assert (found.kind, found.student_classes) == ("superset", (1, 3))


# Logits --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("teacher", [ANIMALS, ANIMALS[::-1], IMAGENET + ANIMALS, ANIMALS[:2], ["elk", *ANIMALS[:2]]])
def test_shared_classes_can_be_compared(teacher):
    """A refusal of what works would send people away from logits."""
    match(ANIMALS, teacher).check_logits("kd")


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (ANIMALS, ["elk", "ant"], r"none of.*student's are 'cat', 'dog'.*teacher's are 'elk', 'ant'\. If they are the"),
        (ANIMALS, ["elk", "owl"], r"only 'owl'.*rename them in `config.id2label`"),
        (ANIMALS, None, r"student's are 'cat'.*'fox'\. If classes are shared, name those of the teacher in `config"),
        (None, None, r"the student has 4, the teacher 1000\. If .* name those of the student and of the teacher in"),
        (ANIMALS, IMAGENET, r"'thing 4' and 995 more\."),
    ],
)
def test_logits_of_two_label_spaces_are_refused_with_a_way_out(student, teacher, message):
    """Who is only told "shapes differ" cuts the logits to fit, and trains on the wrong classes."""
    found = match(student, teacher, 4, 1000 if teacher is None else None)
    with pytest.raises(ValueError, match=rf"term 'kd' compares the logits of two label spaces: .*{message}") as error:
        found.check_logits("kd")
    assert "Otherwise use terms on features" in str(error.value)
    assert "`connector='linear'`" in str(error.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("teacher", [ANIMALS, ANIMALS[::-1], [*ANIMALS, "elk"], ["dog", "cat"], ["elk", "fox", "cat"]])
def test_the_teachers_logits_keep_their_type_and_device(teacher, device, dtype):
    """Half precision is the teacher's setting; another device would stop the run in the first step."""
    logits = torch.zeros(2, len(teacher), dtype=dtype, device=device)
    result = match(ANIMALS, teacher).teacher_in_student_space(logits)
    assert (result.shape, result.dtype, result.device) == ((2, 4), dtype, logits.device)


def test_each_class_of_the_student_gets_the_teachers_logit_of_its_name():
    """A wrong column is not seen in the loss: it falls, and the student learns other classes."""
    of_name = {"cat": 1.0, "dog": 2.0, "owl": 3.0, "fox": 4.0, "elk": 5.0, "ant": 6.0}
    for teacher in (ANIMALS[::-1], ["elk", *ANIMALS], ["fox", "dog"], ["ant", "owl", "elk", "cat"]):
        logits = torch.tensor([[of_name[name] for name in teacher]]) * torch.tensor([[1.0], [10.0]])
        expected = [of_name[name] if name in teacher else -torch.inf for name in ANIMALS]
        result = match(ANIMALS, teacher).teacher_in_student_space(logits)
        assert torch.equal(result, torch.tensor([expected]) * torch.tensor([[1.0], [10.0]]))


@pytest.mark.parametrize("teacher", [ANIMALS, None])
def test_equal_label_spaces_cost_nothing(teacher):
    """A copy of the logits in every step would be for nothing."""
    logits = torch.zeros(2, 4)
    assert match(ANIMALS, teacher, 4, 4).teacher_in_student_space(logits) is logits


@pytest.mark.parametrize("shape", [(2, 4), (5,), (2, 5, 1)])
@pytest.mark.parametrize("student", [[*ANIMALS, "elk"], ["dog", "cat"]])
def test_logits_of_another_teacher_are_refused(student, shape):
    """Columns picked from the logits of another head would be other classes."""
    found = match(student, [*ANIMALS, "elk"])
    with pytest.raises(ValueError, match=r"shape \(N, 5\), got"):
        found.teacher_in_student_space(torch.zeros(shape))


@pytest.mark.parametrize("teacher", [["elk", "ant"], ["elk", "owl"], None])
def test_without_shared_classes_there_are_no_logits(teacher):
    """Rows of -inf become NaN in a softmax, and class 0 in an argmax."""
    found = match(ANIMALS, teacher, 4, 2)
    with pytest.raises(ValueError, match="say nothing about the student's classes"):
        found.teacher_in_student_space(torch.zeros(1, 2))


def test_a_match_is_a_value():
    """Logs and cards compare and store it; a thousand names in its repr would fill the screen."""
    found = match(ANIMALS, [*IMAGENET, *ANIMALS])
    assert found == match(ANIMALS, [*IMAGENET, *ANIMALS])
    assert pickle.loads(pickle.dumps(found)) == found
    assert "thing" not in repr(found)


def test_classes_that_are_not_matched_are_named_on_both_sides():
    """A number alone does not show that "dogs" is "dog" of the other list."""
    match = match_labels(dict(enumerate(["ant", "bee", "cat"])), dict(enumerate(["ant", "bee", "cats"])), 3, 3)
    assert match.left_out() == "not matched are the student's 'cat' and the teacher's 'cats'"
