"""Teachers of several families, trained a little, and what is said by them and by their fast copies."""

import contextlib

import tiny
import torch
from torch import nn
from transformers import (
    EfficientNetConfig,
    EfficientNetForImageClassification,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    RegNetConfig,
    RegNetForImageClassification,
)

from hf_abkd.layers.capture import CapturePoint
from hf_abkd.layers.module_kinds import is_boundary_activation
from hf_abkd.teachers.live import LiveTeacher
from hf_abkd.teachers.speed.fast_copy import SpeedUps

BOTH = SpeedUps(fold_batch_norm=True, channels_last=True)
NOTHING = SpeedUps(fold_batch_norm=False, channels_last=False, in_place=False)


def images(count=2, size=32):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def trained(model):
    """The model with statistics and factors of BatchNorm as after training: none of them 0 or 1."""
    torch.manual_seed(0)
    model.train()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
        for _ in range(20):
            model(torch.randn(8, 3, 32, 32))
    return model.eval()


def regnet():
    torch.manual_seed(0)
    return RegNetForImageClassification(
        RegNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], groups_width=4, num_labels=4)
    )


def mobilenet():
    torch.manual_seed(0)
    return MobileNetV2ForImageClassification(MobileNetV2Config(depth_multiplier=0.25, image_size=32, num_labels=4))


def efficientnet():
    torch.manual_seed(0)
    config = EfficientNetConfig(
        image_size=32,
        width_coefficient=0.25,
        depth_coefficient=0.1,
        in_channels=[32, 16],
        out_channels=[16, 24],
        kernel_sizes=[3, 5],
        strides=[1, 2],
        expand_ratios=[1, 6],
        num_block_repeats=[1, 2],
        depthwise_padding=[],
        hidden_dim=320,
        num_labels=4,
    )
    return EfficientNetForImageClassification(config)


class Net(nn.Module):
    """Every kind of convolution before a BatchNorm, in-place activations, and a residual that is added in place."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, bias=True, padding=1, padding_mode="reflect"), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, groups=8, padding=1), nn.BatchNorm2d(8, eps=0.1)
        self.conv3, self.bn3 = nn.Conv2d(8, 8, 3, groups=2, bias=False, padding=1), nn.BatchNorm2d(8, affine=False)
        self.act1, self.act2, self.act3 = (nn.ReLU(inplace=True) for _ in range(3))
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        stem = self.act1(self.bn1(self.conv1(x)))
        x = self.bn3(self.conv3(self.act2(self.bn2(self.conv2(stem)))))
        x += stem
        return self.head(self.act3(x).mean((2, 3)))


FAMILIES = {
    "resnet": (lambda: tiny.resnet(8), 7),
    "regnet": (regnet, 12),
    "mobilenet": (mobilenet, 52),
    "efficientnet": (efficientnet, 7),
    "plain": (Net, 3),
    "vit": (lambda: tiny.vit(16), 0),
}


def activations(model):
    return {
        f"{name}:{side}": CapturePoint(name, side)
        for name, module in model.named_modules()
        if is_boundary_activation(module)
        for side in ("input", "output")
    }


def live(model, points=(), speed_ups=None, batch=None, precision=contextlib.nullcontext):
    """An optimised teacher that selects these points, what it did, and what the plain one says."""
    batch = {"pixel_values": images(size=16 if hasattr(model, "vit") else 32) if batch is None else batch}
    teacher = LiveTeacher(model, precision)
    teacher.select(dict(points))
    plain = teacher.probe(batch)
    report = teacher.optimize(batch, dict(points), speed_ups)
    return teacher, report, plain, batch


class Pieces(nn.Module):
    """A convolution and a BatchNorm, with something between or around them."""

    def __init__(self, between=lambda x: x, after=lambda conv, bn: bn):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.bn, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 4)
        self.between, self.after = between, after

    def forward(self, x):
        conv = self.conv(x)
        bn = self.bn(self.between(conv))
        return self.head(self.after(conv, bn).mean((2, 3)))
