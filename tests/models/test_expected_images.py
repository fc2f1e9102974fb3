import pytest
import tiny
import torch
from torch import nn

from hf_abkd.models.expected_images import channels_of, check_channels, other_size


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
