"""What images each model gets."""

import numpy as np
import patients
import tiny
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from transformers import ViTImageProcessorPil

from hf_abkd import DistillationTrainer
from hf_abkd.cli.doctor.subject import Subject
from hf_abkd.data.transform import ImageTransform, prepare


def test_images_of_one_and_of_two_processors_are_described(tmp_path):
    """The size and the colours that a model gets are seen nowhere else before the first step."""
    assert "16x16 pixels" in patients.only(patients.subject(tmp_path), "images", "ok")

    def processor(size, mean=0.5):
        return ViTImageProcessorPil(size={"height": size, "width": size}, image_mean=[mean] * 3)

    own, other = processor(16), processor(32, 0.1)
    rows = Dataset.from_dict(
        {"image": [PILImage.fromarray(np.full((20, 20, 3), 9, np.uint8))] * 8, "label": [0, 1, 2, 3] * 2},
        features=Features({"image": Image(), "label": ClassLabel(names=patients.NAMES)}),
    )
    teacher = patients.Knowing()
    for data, level in (
        (prepare(rows, ImageTransform(own, teacher_processor=other)), "ok"),
        (prepare(rows, ImageTransform(own)), "warning"),
    ):
        trainer = DistillationTrainer(
            tiny.resnet(4),
            tiny.arguments(tmp_path),
            teacher=teacher,
            teacher_processor=other,
            stages=patients.boundary(),
            train_dataset=data,
            processing_class=own,
        )
        message = patients.only(Subject(trainer), "images", level)
        assert "student 16x16, teacher 32x32" in message
        assert ("enlarged from 16x16" in message) == (level == "warning")


def test_config_that_would_tell_another_image_size_is_told(tmp_path):
    """The published config is what others take the size from."""
    student = tiny.resnet(4)
    student.config.image_size = 224
    assert (
        "config.image_size is 224x224, and it gets 16x16"
        in patients.found(patients.subject(tmp_path, student), "images", "note")[0]
    )
