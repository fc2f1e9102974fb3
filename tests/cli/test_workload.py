"""Which image processor each model of a run gets, from the flags."""

from pathlib import Path

import pytest
import tiny
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from transformers import ViTImageProcessorPil

from hf_abkd.cli.workload import from_flags
from hf_abkd.data.arguments import DataArguments
from hf_abkd.data.evaluated import load_evaluated_images
from hf_abkd.models.arguments import ModelArguments

FACTORY = "import tiny\n\ndef make():\n    return tiny.resnet(4)\n"


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Load what flags name: a student, and a teacher that is code and comes without a processor."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    Path("teacher_for_test.py").write_text(FACTORY)
    for side, name in ((16, "student"), (24, "others"), (20, "both")):
        ViTImageProcessorPil(size={"height": side, "width": side}).save_pretrained(name)
    for name in ("student", "bare"):
        tiny.vit().config.save_pretrained(name)
    rows = {"image": [PILImage.new("RGB", (20, 20))] * 4, "label": [0, 1, 2, 3]}
    features = Features({"image": Image(), "label": ClassLabel(names=["ant", "bee", "cat", "dog"])})
    Dataset.from_dict(rows, features=features).to_parquet("rows.parquet")

    def load(student, **flags):
        named = {"teacher_name_or_path": "teacher_for_test:make", **flags}
        work = from_flags(
            ModelArguments(student_name_or_path=student, **named),
            DataArguments(train_files=["rows.parquet"], train_val_split=0.0),
            seed=0,
        )
        return tuple(one and one.size["height"] for one in (work.processor, work.teacher_processor))

    return load


@pytest.mark.parametrize(
    ("student", "flags", "sides"),
    [
        ("student", {}, (16, None)),
        ("student", {"teacher_image_processor_name": "others"}, (16, 24)),
        ("student", {"image_processor_name": "both"}, (20, None)),
        ("student", {"image_processor_name": "both", "teacher_image_processor_name": "others"}, (20, 24)),
        ("bare", {"teacher_image_processor_name": "others"}, (24, None)),
    ],
)
def test_a_teacher_that_is_code_gets_the_processor_that_is_named(load, student, flags, sides):
    """It was trained on images that nothing in its folder describes, and guesses on the student's."""
    assert load(student, **flags) == sides


def test_images_to_train_on_alone_are_decoded_at_a_reduced_scale(load):
    """A student would be judged by other pixels than those that its published processor makes."""
    models = ModelArguments(student_name_or_path="student", teacher_name_or_path="teacher_for_test:make")
    data = DataArguments(train_files=["rows.parquet"], validation_files=["rows.parquet"], reduced_decoding=True)
    work = from_flags(models, data, seed=0)
    sides = [images.format["format_kwargs"]["transform"].least_side for images in (work.train, work.validation)]
    assert sides == [32, None]
    with pytest.raises(ValueError, match="an evaluation decodes its images in full: leave out --reduced_decoding"):
        load_evaluated_images(data)


def test_a_processor_for_no_teacher_and_one_that_is_none_are_refused(load):
    """A flag that is passed over would be a processor that was not used."""
    with pytest.raises(ValueError, match="--teacher_image_processor_name others is given, and there is no teacher"):
        load("student", teacher_name_or_path=None, teacher_image_processor_name="others")
    with pytest.raises(ValueError, match="name one with --teacher_image_processor_name"):
        load("student", teacher_image_processor_name="bare")
