"""What several models say of the same images, in the classes of the first."""

from types import SimpleNamespace

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from torch import nn
from transformers import ViTImageProcessorPil

from hf_abkd.cli.answers import answers_of
from hf_abkd.cli.asking import AskedModel, Asking
from hf_abkd.data.evaluated import EvaluatedImages

NAMES = ["ant", "bee", "cat", "dog"]
LEVELS = dict(zip(NAMES, (30, 90, 150, 210), strict=True))
LEVELS |= {"elk": 240, "fly": 0}


class Sees(nn.Module):
    """Tells the class of an image by how bright it is; knows classes in an order of its own."""

    def __init__(self, names, says=None):
        super().__init__()
        self.config = SimpleNamespace(id2label=dict(enumerate(names)), num_labels=len(names), num_channels=3)
        levels = [LEVELS[(says or {}).get(name, name)] / 255 for name in names]
        self.levels = nn.Parameter(torch.tensor(levels), requires_grad=False)

    def forward(self, pixel_values):
        return -(pixel_values.mean((1, 2, 3))[:, None] - self.levels).square()


def asked(*names, role="student", says=None, side=8):
    processor = ViTImageProcessorPil(size={"height": side, "width": side}, do_normalize=False)
    return AskedModel(role, "m", Sees(names, says), processor)


@pytest.fixture
def images():
    """Three images of each class."""
    labels = [row % 4 for row in range(12)]
    pictures = [PILImage.new("RGB", (10, 10), (LEVELS[NAMES[label]],) * 3) for label in labels]
    features = Features({"image": Image(), "label": ClassLabel(names=NAMES)})
    return EvaluatedImages(Dataset.from_dict({"image": pictures, "label": labels}, features=features), NAMES, "some")


def test_each_model_answers_in_the_classes_of_the_first_whatever_its_own_order(images):
    """A model whose config has another order is right on nothing otherwise, and the student beats it by 90 points."""
    # The baseline takes cats for dogs.
    models = (
        asked(*NAMES[::-1]),
        asked(*NAMES, role="teacher", side=16),
        asked(*NAMES, says={"dog": "cat", "cat": "dog"}),
    )
    student, teacher, baseline = answers_of(models, Asking(images, batch_size=5))
    assert student.right.all() and teacher.right.all()
    assert student.classes.tolist() == [3, 2, 1, 0] * 3 == teacher.classes.tolist()
    assert baseline.right.tolist() == [True, True, False, False] * 3


def test_a_student_answers_among_all_its_classes_and_a_teacher_among_the_students(images):
    """A student of more classes could not err into them, and a teacher of 1,000 classes would say those of others."""
    # To the student an elk looks like a dog, and nothing like one.
    student, teacher = answers_of(
        [asked(*NAMES, "elk", says={"elk": "dog", "dog": "elk"}), asked("fly", *NAMES[::-1], says={"fly": "ant"})],
        Asking(images),
    )
    assert student.classes.tolist() == [0, 1, 2, 4] * 3 and student.right.mean() == 0.75
    assert teacher.right.all()


def test_images_of_a_class_that_the_student_does_not_know_count_as_wrong(images):
    """Left out they would make a student of fewer classes look better."""
    [student] = answers_of([asked("cat", "bee", "ant")], Asking(images))
    assert student.classes.tolist() == [2, 1, 0, 0] * 3 and student.right.tolist() == [True, True, True, False] * 3


def test_without_shared_classes_nothing_is_compared(images):
    """Numbers of one list held against those of another are right by chance."""
    other = asked("elk", "fly", role="teacher")
    assert answers_of([asked(*NAMES), other], Asking(images))[1] is None
    with pytest.raises(
        ValueError, match=r"which classes of the teacher m .* images have \['ant', .*, \['elk', 'fly'\]"
    ):
        answers_of([other], Asking(images))
    rows = images.rows.map(lambda row: {"label": -1 if row["label"] == 3 else row["label"]})
    with pytest.raises(ValueError, match="3 of 12 images have no label"):
        answers_of([asked(*NAMES)], Asking(EvaluatedImages(rows, NAMES, "some")))
