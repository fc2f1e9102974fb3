"""Labels of images in the numbers of a student that counts its classes otherwise."""

import pytest
import tiny

from hf_abkd.export.renumbered import renumbered
from hf_abkd.export.stored_student import StoredStudent


def student(processor, names):
    model = tiny.resnet(classes=len(names), id2label=dict(enumerate(names)))
    return StoredStudent("small", model, processor)


def test_labels_are_those_of_the_student_by_name(images, processor):
    """Held against the numbers of another order, a good student is right by chance."""
    names = ["ant", "bee", "cat", "dog"]
    assert renumbered(images, names, student(processor, names)) is images
    found = renumbered(images, names, student(processor, ["dog", "cat", "fly"]))
    assert [found[place]["labels"] for place in range(4)] == [-1, -1, 1, 0] and len(found) == len(images)
    assert found[0]["pixel_values"].equal(images[0]["pixel_values"])
    with pytest.raises(ValueError, match=r"which classes of the student small .* 'ant', 'bee'.*id2label"):
        renumbered(images, names, student(processor, ["elk", "fly", "owl"]))
