from types import SimpleNamespace

import pytest
import tiny
import torch
from torch import nn
from transformers import CLIPConfig, SiglipConfig

from hf_abkd.models.expected_images import channels_of, check_channels, check_same_channels, image_size_of, other_size

# The text config, unused, warns that its own default tokens are outside its default vocabulary.
NO_TOKENS = {"bos_token_id": None, "eos_token_id": None}


def test_sizes_may_be_rectangular_or_unknown():
    """`image_size` is a number, a pair, or absent in configs."""
    model = tiny.vit()
    model.config.image_size = (16, 24)
    assert other_size(model, torch.zeros(1, 3, 16, 24)) is None
    assert "16x24 pixels" in other_size(model, torch.zeros(1, 3, 24, 16))
    assert other_size(tiny.resnet(), torch.zeros(1, 3, 50, 60)) is None
    assert other_size(nn.Linear(1, 1), torch.zeros(1, 9, 50, 60)) is None


def test_channels_may_be_unknown():
    """A plain module says nothing of its images, and is not to be refused."""
    check_channels(nn.Linear(1, 1), "teacher", torch.zeros(1, 9, 50, 60))
    assert channels_of(None) is None
    assert channels_of(tiny.resnet(num_channels=1).config) == 1


def test_images_of_other_channels_are_refused():
    """A convolution would name its weights and not what to do."""
    with pytest.raises(ValueError, match="the student ResNet.* takes images of 3 channels, the batch has 1"):
        check_channels(tiny.resnet(), "student", torch.zeros(2, 1, 8, 8))


def test_size_and_channels_are_found_where_a_config_keeps_them():
    """A model of images and text is shown images of the usual size, and fails inside itself on them."""
    vision = {"image_size": 16, "patch_size": 8, "num_channels": 1}
    for config in (CLIPConfig(vision_config=vision), SiglipConfig(vision_config=vision, text_config=NO_TOKENS)):
        assert image_size_of(config) == ((16, 16), "config.vision_config.image_size")
        assert channels_of(config) == 1
    timm = SimpleNamespace(pretrained_cfg={"input_size": [1, 24, 32]})
    assert image_size_of(timm) == ((24, 32), "config.pretrained_cfg['input_size']")
    assert channels_of(timm) == 1
    assert image_size_of(SimpleNamespace(image_size={"height": 24, "width": 32})) == ((24, 32), "config.image_size")
    for unknown in (None, tiny.resnet().config, SimpleNamespace(image_size=None, pretrained_cfg={})):
        assert image_size_of(unknown) is None


def test_models_for_images_of_other_channels_are_told_apart():
    """An error of the batch named one model, and did not say that it is the two that do not go together."""
    with pytest.raises(
        ValueError,
        match=r"student takes grey images \(1 channel\) and the teacher RGB images \(3 channels\).*channels=3",
    ):
        check_same_channels(1, 3)
    with pytest.raises(ValueError, match=r"RGB images \(3 channels\) and the teacher images of 4 channels.*channels=4"):
        check_same_channels(3, 4)
    for student, teacher in ((3, 3), (None, 3), (1, None)):
        check_same_channels(student, teacher)
