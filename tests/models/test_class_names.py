import pytest

from hf_abkd.models.class_names import by_number, contradictions, counts_only, normalized, relation

TEXT_ORDER = ["0", "1", "10", "11", *map(str, range(2, 10))]
NUMBERS = [str(index) for index in range(12)]


def test_zeros_before_a_number_do_not_count():
    """Folders "00" to "11" are the classes of a teacher that calls them "0" to "11"."""
    assert [normalized(name) for name in ("007", "0", "00", "Class 07")] == ["7", "0", "0", "class 07"]


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (TEXT_ORDER, (0, 1, *range(4, 12), 2, 3)),
        (["class_1", "class_10", "class_2"], (0, 2, 1)),
        (["3", "1", "2"], (1, 2, 0)),
        (NUMBERS, None),
        (["00", "01", "10"], None),
        (["cat", "dog"], None),
        (["cat 1", "dog 10", "cat 2"], None),
        (["1", "01"], None),
    ],
)
def test_names_that_differ_in_their_number_alone_have_a_second_order(names, order):
    """`datasets` sorts folders as text; whoever numbered them may have trained in the order of the numbers."""
    assert by_number(names) == order


@pytest.mark.parametrize(
    ("names", "other", "says_nothing"),
    [
        (NUMBERS, TEXT_ORDER, False),
        (NUMBERS, ["3", "7"], False),
        (NUMBERS, [str(index) for index in range(1, 13)], True),
        (NUMBERS, ["cat", "dog"], True),
        (NUMBERS, [f"{index:02}" for index in range(12)], False),
        (NUMBERS, NUMBERS, False),
        (TEXT_ORDER, NUMBERS, False),
    ],
)
def test_numbers_count_as_names_where_the_other_list_means_them_so(names, other, says_nothing):
    """A teacher numbered from 0 and folders from 1 on: by name each class would be taught as its neighbour."""
    assert counts_only(names, other) is says_nothing


@pytest.mark.parametrize(
    ("names", "data", "how"),
    [
        (["cat", "dog"], ["Cat", "DOG"], "same"),
        (["cat", "dog"], ["cat", "dog", "owl"], "same"),
        (["cat", "dog"], ["dog", "cat"], "moved"),
        (["owl", "cat"], ["cat", "dog"], "moved"),
        (["chat", "chien"], ["cat", "dog"], "other"),
        (["cat", "hound"], ["cat", "dog"], "other"),
        (["LABEL_0", "LABEL_1"], ["cat", "dog"], "unnamed"),
        (["0", "1"], ["cat", "dog"], "unnamed"),
        (None, ["cat", "dog"], "unnamed"),
        (NUMBERS, TEXT_ORDER, "moved"),
        (["crane", "owl", "crane"], ["crane", "owl", "crane"], "same"),
        (["cat", "Cat"], ["Cat", "cat"], "moved"),
    ],
)
def test_two_lists_of_the_same_numbers_are_compared(names, data, how):
    """A name at another number is a mistake for certain; another name may be a translation."""
    assert relation(names, data) == how


def test_two_mappings_of_one_config_can_contradict_each_other():
    """One of them is wrong, and nobody sees which."""
    assert contradictions({0: "cat", 1: "dog"}, {"cat": 1, "dog": "0"}) == ["'cat' (0 and 1)", "'dog' (1 and 0)"]
    assert contradictions({0: "cat", 1: "dog"}, {"cat": 0, "dog": 1}) == []
    # Left as transformers makes it, or without the second of two equal names, it says nothing else.
    assert contradictions({0: "cat", 1: "dog"}, {"LABEL_0": 0, "LABEL_1": 1}) == []
    assert contradictions({0: "crane", 1: "owl", 2: "crane"}, {"crane": 2, "owl": 1}) == []
    assert contradictions(None, None) == []
