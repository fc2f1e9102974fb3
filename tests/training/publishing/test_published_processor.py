"""The image processor that lies beside a student makes the pixels of training, or the run is refused."""

import json

import pytest
import tiny
import torch
from datasets import ClassLabel, Dataset, Features, Image
from processors import colours, noise, vit
from transformers import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    AutoImageProcessor,
    BaseImageProcessor,
    BatchFeature,
    ResNetConfig,
    ViTImageProcessorPil,
)
from transformers.models.auto.image_processing_auto import (
    IMAGE_PROCESSOR_MAPPING,
    IMAGE_PROCESSOR_MAPPING_NAMES,
    get_image_processor_class_from_name,
)

from hf_abkd import DistillationTrainer, ImageTransform
from hf_abkd.data.transform import prepare as prepare_rows
from hf_abkd.models.saving import save_processor, save_student
from hf_abkd.training.publishing.published_processor import check_processor

TYPES = {config.model_type for config in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING}
KINDS = sorted({names.get("pil") for kind, names in IMAGE_PROCESSOR_MAPPING_NAMES.items() if kind in TYPES} - {None})
# What the settings below need beside them, or why a kind is left out.
MORE = {"ImageGPTImageProcessorPil": {"clusters": [[-1.0] * 3, [1.0] * 3], "do_color_quantize": False}}
LEFT_OUT = {
    "Gemma3ImageProcessorPil": "belongs to a language model",
    "Siglip2ImageProcessorPil": "makes patches, no images",
    "TimmWrapperImageProcessor": "needs the package timm; see below",
}
MEAN = [0.5, 0.4, 0.3]
IMAGES = [noise(37, 53), noise(64, 40, seed=1)]


def made(name):
    """A processor with no setting as it is by default: what is lost on the way shows."""
    kind = get_image_processor_class_from_name(name)
    usual = kind(**MORE.get(name, {}))
    given = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.3, 0.2, 0.4], "rescale_factor": 1 / 200, "resample": 0}
    for setting, side in (("size", 24), ("crop_size", 16)):
        if getattr(usual, setting, None):
            given[setting] = {key: side for key, value in dict(getattr(usual, setting)).items() if value}
    return kind(**given, **MORE.get(name, {}))


@pytest.mark.parametrize("name", [name for name in KINDS if name not in LEFT_OUT])
def test_every_kind_of_processor_makes_the_same_pixels_when_it_is_loaded(name, tmp_path):
    """Whoever downloads the student prepares images by what lies beside it, and it guesses on others."""
    student, processor = tiny.resnet(4), made(name)
    check_processor(student, processor)
    save_student(student, processor, tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(loaded) is type(processor)
    for image in IMAGES:
        expected = colours(processor, image)
        assert expected.shape[1] == 3 and expected.std() > 0.1
        assert torch.equal(colours(loaded, image), expected)


def test_the_kinds_are_those_of_image_classifiers():
    """A list that is empty, or that a new version of transformers has outgrown, would test nothing."""
    assert len(KINDS) > 15 and set(LEFT_OUT) < set(KINDS)


# ---- timm ----


class TimmWrapperImageProcessor(BaseImageProcessor):
    """Stands for timm's, which has its settings in a `config.json` and writes nothing (transformers 5.23)."""

    def __init__(self, pretrained_cfg, architecture=None, **kwargs):
        super().__init__(architecture=architecture)
        self.data_config = {key: pretrained_cfg[key] for key in ("input_size", "mean", "std")}

    @classmethod
    def get_image_processor_dict(cls, folder, **kwargs):
        kwargs.pop("image_processor_filename", None)
        return super().get_image_processor_dict(folder, image_processor_filename="config.json", **kwargs)

    def preprocess(self, images, return_tensors=None):
        side, mean, std = (self.data_config[key] for key in ("input_size", "mean", "std"))
        return BatchFeature({"pixel_values": colours(vit(side[1], mean, std), *images)})

    def save_pretrained(self, *args, **kwargs):
        pass


TimmWrapperImageProcessor.__module__ = "transformers.models.timm_wrapper.image_processing_timm_wrapper"
TIMM = {"input_size": [3, 20, 20], "mean": [0.1, 0.2, 0.3], "std": [0.2, 0.3, 0.4]}


@pytest.fixture
def timm(monkeypatch):
    """A processor of timm that AutoImageProcessor knows by its name."""
    known = {**IMAGE_PROCESSOR_MAPPING._extra_content, "timm": {"pil": TimmWrapperImageProcessor}}
    monkeypatch.setattr(IMAGE_PROCESSOR_MAPPING, "_extra_content", known)
    return TimmWrapperImageProcessor(TIMM)


@pytest.fixture
def timm_folder(tmp_path):
    """A folder with the config of a timm model, whose own processor would make other pixels."""
    config = {"model_type": "timm_wrapper", "pretrained_cfg": {**TIMM, "mean": [0.9] * 3, "tag": "in1k"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_timms_processor_beside_another_student_is_found(tmp_path, timm):
    """It wrote nothing: the card named a processor that was not there."""
    check_processor(tiny.resnet(4), timm)
    names = save_student(tiny.resnet(4), timm, tmp_path)
    assert "preprocessor_config.json" in names
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert loaded.data_config == TIMM
    assert torch.equal(colours(loaded, IMAGES[0]), colours(timm, IMAGES[0]))
    assert ResNetConfig.from_pretrained(tmp_path).hidden_sizes == tiny.resnet(4).config.hidden_sizes


def test_timms_processor_beside_a_timm_student_is_the_one_of_training(timm_folder, timm):
    """The student may have been made for other pixels than it was trained on."""
    save_processor(timm, timm_folder)
    assert AutoImageProcessor.from_pretrained(timm_folder).data_config == TIMM
    assert json.loads((timm_folder / "config.json").read_text())["pretrained_cfg"]["tag"] == "in1k"


def test_another_processor_beside_a_timm_student_is_found(timm_folder, timm):
    """transformers made the timm model's own pixels in its place, off by 1.8, without a word."""
    save_processor(vit(), timm_folder)
    loaded = AutoImageProcessor.from_pretrained(timm_folder)
    assert type(loaded) is ViTImageProcessorPil
    assert torch.equal(colours(loaded, IMAGES[0]), colours(vit(), IMAGES[0]))


# ---- Refused ----


class Own(ViTImageProcessorPil):
    """A processor of a user's."""


class Forgetful(ViTImageProcessorPil):
    """A processor that does not write all of its settings."""

    _auto_class = "AutoImageProcessor"

    def to_dict(self):
        return {key: value for key, value in super().to_dict().items() if key != "image_mean"}


def prepare(image):
    return image


@pytest.mark.parametrize(
    ("processor", "error", "message"),
    [
        (prepare, TypeError, "prepare is no image processor that can be"),
        (object(), TypeError, "object is no image processor that can be"),
        (Own(), ValueError, r"nobody could load Own, .* call Own.register_for_auto_class\(\) before training"),
        (
            Forgetful(image_mean=[0.1] * 3),
            ValueError,
            "Forgetful loaded from there is another: it then prepares images",
        ),
    ],
)
def test_a_processor_that_would_not_be_what_it_was_is_refused_before_training(tmp_path, processor, error, message):
    """It ended a run at its first checkpoint, or was published as another one."""
    with pytest.raises(error, match=rf"{message}.*or leave processing_class out"):
        DistillationTrainer(
            tiny.resnet(4), tiny.arguments(tmp_path), train_dataset=tiny.images(), processing_class=processor
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["train_dataset", "eval_dataset"])
def test_images_that_another_processor_prepared_are_refused(tmp_path, name):
    """The student was trained on pixels that nobody who loads it with its processor will show it."""
    features = Features({"image": Image(), "label": ClassLabel(num_classes=tiny.CLASSES)})
    rows = Dataset.from_dict({"image": IMAGES * 2, "label": range(4)}, features=features)
    ours, same, other = (prepare_rows(rows, ImageTransform(vit(tiny.SIZE, mean))) for mean in (MEAN, MEAN, [0.1] * 3))
    kept = {"train_dataset": ours, "eval_dataset": {"few": same}, "processing_class": vit(tiny.SIZE, MEAN)}
    DistillationTrainer(tiny.resnet(4), tiny.arguments(tmp_path), **kept)
    given = {**kept, name: other if name == "train_dataset" else {"few": other}}
    with pytest.raises(ValueError, match=f"{name} was prepared by a ViTImageProcessorPil that makes other pixels than"):
        DistillationTrainer(tiny.resnet(4), tiny.arguments(tmp_path), **given)
