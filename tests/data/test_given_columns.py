import pytest
from datasets import Dataset

from hf_abkd.data.given_columns import check_columns, largest_label


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            ["cat", "dog"],
            r"column 'label' holds labels of type .*; number the classes first: dataset.class_encode_column",
        ),
        ([0, 2.5], r"2\.5 in row 1, and a class is a whole number; correct"),
        ([float("nan"), 1], r"nan in row 0, and a class is a whole number; correct"),
        ([0.0, 1.0], r"a class is a whole number: dataset\.cast_column\('label', datasets\.Value\('int64'\)\)"),
        ([True, False], r"dataset\.cast_column\('label'"),
        ([0, 1, -1, -1], r"rows without a label \(None or a negative number\), the first -1 in row 2\. Drop them"),
        ([0, None], r"the first None in row 1"),
    ],
)
def test_labels_that_are_no_class_numbers_are_named(labels, message):
    """Half of them are errors of torch in the middle of an epoch; 2.5 was cut to 2."""
    rows = Dataset.from_dict({"image": [b""] * len(labels), "label": labels})
    with pytest.raises(ValueError, match=message):
        check_columns(rows, "image", "label")


def test_a_missing_label_column_says_how_to_do_without_labels():
    """Distillation needs none, which a user with unlabelled images cannot guess."""
    rows = Dataset.from_dict({"image": [b""], "fine": [3]})
    with pytest.raises(ValueError, match=r"no column 'label'; its columns are image, fine\. .*label_column=None to tr"):
        check_columns(rows, "image", "label")
    with pytest.raises(ValueError, match=r"no column 'img'.*ImageTransform\(\.\.\., image_column=\.\.\.\)$"):
        check_columns(rows, "img", "fine")
    check_columns(rows, "image", None)


def test_the_largest_label_is_found_in_the_order_of_the_rows():
    """A row number of the file would send a user with shuffled rows to the wrong one."""
    rows = Dataset.from_dict({"label": [0, 9, 3]})
    assert largest_label(rows, "label") == (9, 1)
    assert largest_label(rows.select([2, 0]), "label") == (3, 0)
    assert largest_label(rows.select([]), "label") == (-1, -1)
