import pytest
import tiny
import torch
from datasets import ClassLabel, Image
from torch import nn
from torch.nn import functional
from transformers import AutoModelForImageClassification, BertConfig, DeiTConfig, ResNetConfig

from hf_abkd.models.tasks.image_classification import IMAGE_CLASSIFICATION as TASK

LOGITS = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0], [0.0, 1.0, 5.0], [4.0, 1.0, 0.0]])
LABELS = torch.tensor([0, 1, 1, 0])


def test_a_config_tells_which_classes_can_do_the_task():
    """A config of another task would be filled with a random head."""
    assert TASK.auto_class is AutoModelForImageClassification
    assert TASK.architectures(ResNetConfig()) == ["ResNetForImageClassification"]
    assert TASK.architectures(DeiTConfig())[0] == "DeiTForImageClassification"
    assert TASK.architectures(BertConfig()) == []


def test_a_model_may_name_its_own_inputs():
    """What the trainer changes in a batch has to be what the model reads."""
    assert TASK.inputs_of(tiny.resnet()) == "pixel_values"
    assert TASK.inputs_of(nn.Linear(1, 1)) == "pixel_values"
    other = nn.Linear(1, 1)
    other.main_input_name = "images"
    assert TASK.inputs_of(other) == "images"


def test_classes_are_named_and_counted():
    """A head is made for `num_labels`, and a prediction is shown by `id2label`: they must agree."""
    config = ResNetConfig()
    TASK.name_classes(config, ["cat", "dog", "owl"])
    assert TASK.classes(config) == config.num_labels == 3
    assert TASK.class_names(config) == {0: "cat", 1: "dog", 2: "owl"}
    assert config.label2id == {"cat": 0, "dog": 1, "owl": 2}
    assert TASK.class_names(tiny.resnet()) == tiny.resnet().config.id2label
    assert TASK.class_names(nn.Linear(1, 1)) is None


def test_a_data_set_of_other_classes_is_refused():
    """Labels beyond the head end in an assertion on the device, and fewer ones in silence."""
    config = ResNetConfig(num_labels=3)
    animals = ClassLabel(names=["cat", "dog", "owl"])
    TASK.check_labels(config, {"image": Image(), "label": animals})
    TASK.check_labels(config, {"fine": ClassLabel(num_classes=9), "coarse": animals})
    TASK.check_labels(config, {"image": Image()})
    with pytest.raises(ValueError, match=r"has the classes \{'label': 9\} .* and the student 3\. .*num_labels=9"):
        TASK.check_labels(config, {"label": ClassLabel(num_classes=9)})


def test_a_batch_is_compared_with_what_the_model_was_made_for():
    """Other channels cannot be read, and another size is only told of: some models take any."""
    with pytest.raises(ValueError, match="takes images of 3 channels, the batch has 1"):
        TASK.check_inputs(tiny.resnet(), "student", torch.zeros(2, 1, 16, 16))
    TASK.check_inputs(tiny.resnet(), "student", torch.zeros(2, 3, 16, 16))
    assert TASK.unusual_inputs(tiny.vit(16), torch.zeros(2, 3, 16, 16)) is None
    assert "16x16 pixels" in TASK.unusual_inputs(tiny.vit(16), torch.zeros(2, 3, 24, 24))


def test_predictions_are_read_and_scored():
    """The numbers of an evaluation, by hand."""
    assert TASK.prediction({"logits": LOGITS}, nn.Linear(1, 1), "student") is LOGITS
    assert TASK.right(LOGITS, LABELS).tolist() == [True, True, False, True]
    assert TASK.chance(torch.tensor([0, 1, 1, 1])) == 0.75
    assert TASK.agreement(LOGITS, LOGITS.roll(1, 0)).tolist() == [True, False, False, False]
    with pytest.raises(TypeError, match=r"the teacher Linear must return logits of shape \(N, K\)"):
        TASK.prediction(torch.zeros(2, 3, 4), nn.Linear(1, 1), "teacher")


def test_the_loss_is_smoothed_cross_entropy_in_float32():
    """In half precision the loss of an evaluation would be another one than that of training."""
    expected = functional.cross_entropy(LOGITS, LABELS, label_smoothing=0.1)
    torch.testing.assert_close(TASK.loss(LOGITS, LABELS, label_smoothing=0.1), expected)
    assert TASK.loss(LOGITS.half(), LABELS).dtype == torch.float32
    assert TASK.loss(LOGITS, LABELS) < expected
