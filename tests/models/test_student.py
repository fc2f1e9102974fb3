import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from saved_models import LABELS, LEVIT, RESNET, VIT, name_classes, resnet_config, saved
from transformers import (
    BertConfig,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    LevitConfig,
    PPLCNetConfig,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from hf_abkd.models.hub_options import HubOptions
from hf_abkd.models.student import load_student, student_channels, student_config

# Student -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [ResNetConfig(**RESNET), ViTConfig(**VIT), DeiTConfig(**VIT), LevitConfig(**LEVIT)],
    ids=["resnet", "vit", "deit", "levit"],
)
@pytest.mark.parametrize("as_file", [False, True], ids=["folder", "file"])
def test_a_config_alone_makes_a_random_student(tmp_path, config, as_file, logged):
    """Without `architectures` transformers stops with "'NoneType' object is not iterable" for DeiT and LeViT."""
    config.save_pretrained(tmp_path / "student")
    path = tmp_path / "student" / "config.json"
    content = json.loads(path.read_text())
    content["dtype"] = "float16"
    content.pop("architectures", None)
    path.write_text(json.dumps(content))
    student = load_student(str(path if as_file else path.parent), labels=LABELS).eval()
    assert student(pixel_values=torch.zeros(2, 3, 32, 32)).logits.shape == (2, 3)
    assert student.config.id2label == {0: "cat", 1: "dog", 2: "owl"}
    assert student.config.label2id == {"cat": 0, "dog": 1, "owl": 2}
    assert next(student.parameters()).dtype == torch.float32
    assert "all tensors are random" in logged.text


def test_a_config_keeps_the_class_it_names(tmp_path):
    """DeiT's distilled class has a second head; replacing the class would drop it."""
    DeiTConfig(**VIT, architectures=["DeiTForImageClassificationWithTeacher"]).save_pretrained(tmp_path / "s")
    assert isinstance(load_student(str(tmp_path / "s"), labels=LABELS), DeiTForImageClassificationWithTeacher)


def test_a_random_student_follows_the_seed(tmp_path):
    """Runs with one seed must start from the same weights, with two seeds from different ones."""
    resnet_config().save_pretrained(tmp_path / "s")
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        weights.append(load_student(str(tmp_path / "s"), labels=LABELS).classifier[1].weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_stored_weights_are_kept_and_named_after_the_data(resnet, logged):
    """The published student must say "owl", not LABEL_2."""
    student = load_student(resnet, labels=LABELS)
    stored = load_file(f"{resnet}/model.safetensors")
    assert all(torch.equal(student.state_dict()[name], tensor) for name, tensor in stored.items())
    assert student.config.id2label == {0: "cat", 1: "dog", 2: "owl"}
    assert student.training
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert "random" not in logged.text


def test_without_labels_the_config_is_left_alone(tmp_path):
    """Feature distillation without labels must not invent classes."""
    folder = saved(tmp_path / "m", ResNetForImageClassification(resnet_config(5)))
    assert load_student(folder, labels=None).config.num_labels == 5


def test_a_head_of_another_label_count_needs_the_flag(resnet, logged):
    """A trained head must not be thrown away because the wrong data set was named."""
    labels = ["a", "b", "c", "d"]
    with pytest.raises(ValueError, match=r"classifies 3 classes, the data has 4.*Pass --ignore_mismatched_sizes"):
        load_student(resnet, labels=labels)
    student = load_student(resnet, labels=labels, ignore_mismatched_sizes=True)
    stored = load_file(f"{resnet}/model.safetensors")
    assert student.classifier[1].weight.shape == (4, 8)
    backbone = {name: tensor for name, tensor in stored.items() if not name.startswith("classifier")}
    assert backbone
    assert all(torch.equal(student.state_dict()[name], tensor) for name, tensor in backbone.items())
    assert "new, random tensors: classifier.1.bias, classifier.1.weight" in logged.text
    assert "its head for 3 classes is replaced by one for 4" in logged.text


def test_a_backbone_without_a_head_gets_one(tmp_path, logged):
    """Self-supervised backbones have no head; that is the usual student to fine-tune, and it must be told."""
    folder = saved(tmp_path / "backbone", ViTModel(ViTConfig(**VIT), add_pooling_layer=True))
    student = load_student(folder, labels=LABELS)
    assert student.classifier.weight.shape == (3, 8)
    assert "new, random tensors: classifier.bias, classifier.weight" in logged.text
    assert "tensors not used: " in logged.text
    assert "pooler" in logged.text


def test_a_student_with_a_random_backbone_is_refused(tmp_path):
    """Weights of a shallower model would leave the upper layers random; transformers only logs it."""
    folder = saved(tmp_path / "m", ViTForImageClassification(ViTConfig(**VIT, num_labels=3)))
    ViTConfig(**{**VIT, "num_hidden_layers": 2}, num_labels=3).save_pretrained(folder)
    with pytest.raises(ValueError, match=r"tensors missing in the checkpoint: vit\..* and \d+ more.*only its config"):
        load_student(folder, labels=LABELS)


@pytest.mark.parametrize("flag", [False, True])
def test_a_backbone_of_another_shape_is_refused_with_and_without_the_flag(resnet, flag):
    """The flag is for the head; with another channel count the first layer would be random."""
    path = Path(resnet, "config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_channels": 1}))
    with pytest.raises(ValueError, match=r"another shape than the config.*embedder.*\(4, 3, 7, 7\).*\(4, 1, 7, 7\)"):
        load_student(resnet, labels=LABELS, ignore_mismatched_sizes=flag)


def test_a_model_that_is_no_image_classifier_is_refused(tmp_path):
    """The remedy is another model, which transformers' list of 40 config classes does not say."""
    BertConfig(hidden_size=8, num_attention_heads=2).save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match=r"student .*no image classifier of model type 'bert'"):
        load_student(str(tmp_path / "bert"), labels=LABELS)


# Config --------------------------------------------------------------------------------------------------------------


def test_the_channels_are_read_without_the_weights(tmp_path, resnet, factories):
    """Images are prepared before the student is built; grey ones for a colour student stop the first batch."""
    Path(resnet, "model.safetensors").write_bytes(b"not read")
    assert student_channels(resnet) == 3
    resnet_config(num_channels=1).save_pretrained(tmp_path / "grey")
    assert student_channels(str(tmp_path / "grey")) == 1
    assert student_channels(str(tmp_path / "grey" / "config.json")) == 1
    assert student_channels("own_factories:student") == 1
    PPLCNetConfig().save_pretrained(tmp_path / "silent")
    assert student_channels(str(tmp_path / "silent")) == 3


def test_a_config_from_the_hub_is_of_the_revision_asked_for(tmp_path, hub_cache):
    """Another revision may have another input."""
    resnet_config(num_channels=1).save_pretrained(hub_cache("owner/grey"))
    assert student_channels("owner/grey", HubOptions("main", cache_dir=str(tmp_path))) == 1
    with pytest.raises(OSError, match=r"'owner/grey' \(revision 'v2'\) could not be loaded"):
        student_channels("owner/grey", HubOptions("v2", cache_dir=str(tmp_path)))


def test_a_config_has_the_stored_names(resnet):
    """`renamed_head` compares them with the data's."""
    name_classes(resnet, ["dog", "cat", "owl"])
    assert student_config(resnet).id2label == {0: "dog", 1: "cat", 2: "owl"}


def test_reading_a_config_changes_nothing(tmp_path, factories):
    """With the random state moved on, the student would start from other weights than the seed says."""
    state = torch.get_rng_state()
    student_channels("own_factories:student")
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        student_channels("./gone")
    with pytest.raises(ValueError, match="holds no config.json"):
        student_channels(str(factories))
