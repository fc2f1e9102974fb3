"""Four tiny networks as they are written outside of transformers: their activations are no modules of their own.

Blocks in the style of torchvision call one in-place ReLU twice, those of EfficientNet-lite one ReLU6; another network
calls functions, and one has a single ReLU for all layers. They take `pixel_values` of shape (N, 3, H, W), and return
logits, (N, K).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (16, 32, 64, 128)


class ResidualBlock(nn.Module):
    """A basic block of torchvision, with whatever activation it is given."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), norm(outputs)
        self.conv2, self.norm2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), norm(outputs)
        self.downsample: nn.Module | None = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs))

    def activated(self, maps: Tensor) -> Tensor:
        """Return maps behind the activation."""
        raise NotImplementedError

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps of other width and grid."""
        shortcut = maps if self.downsample is None else self.downsample(maps)
        maps = self.norm2(self.conv2(self.activated(self.norm1(self.conv1(maps)))))
        maps += shortcut
        return self.activated(maps)


class ModuleBlock(ResidualBlock):
    """A block that calls one module twice."""

    def __init__(self, inputs: int, outputs: int, stride: int, relu: nn.Module) -> None:
        super().__init__(inputs, outputs, stride, nn.BatchNorm2d)
        self.relu = relu

    def activated(self, maps: Tensor) -> Tensor:
        """Return maps behind ReLU."""
        activated: Tensor = self.relu(maps)
        return activated


class FunctionalBlock(ResidualBlock):
    """A block with GroupNorm that calls a function."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(inputs, outputs, stride, lambda channels: nn.GroupNorm(4, channels))

    def activated(self, maps: Tensor) -> Tensor:
        """Return maps behind ReLU."""
        return functional.relu(maps)


class InvertedResidual(nn.Module):
    """A block of EfficientNet-lite: no gate, and one ReLU6 behind both of its first convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int = 4) -> None:
        super().__init__()
        width = inputs * expand
        self.expand, self.norm1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.depthwise = nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.project, self.norm3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU6(inplace=True)
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps of other width and grid."""
        hidden = self.relu(self.norm1(self.expand(maps)))
        hidden = self.relu(self.norm2(self.depthwise(hidden)))
        projected: Tensor = self.norm3(self.project(hidden))
        return projected + maps if self.has_shortcut else projected


class PlainNet(nn.Module):
    """A stem that divides by four, four stages of two blocks, and a linear head.

    Args:
        classes: Number of logits.
        block: Makes a block from its channels in and out and its stride.
        norm: Makes the normalisation of the stem.
        activation: The activation of the stem.
    """

    def __init__(
        self,
        classes: int,
        block: Callable[[int, int, int], nn.Module],
        norm: Callable[[int], nn.Module],
        activation: Callable[[Tensor], Tensor],
        widths: Sequence[int] = WIDTHS,
    ) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, widths[0], 7, 2, 3, bias=False), norm(widths[0])
        self.activation = activation
        self.pool = nn.MaxPool2d(3, 2, 1)
        for number, (inputs, outputs) in enumerate(zip((widths[0], *widths[:-1]), widths, strict=True), 1):
            stage = nn.Sequential(block(inputs, outputs, 1 if number == 1 else 2), block(outputs, outputs, 1))
            self.add_module(f"layer{number}", stage)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return logits, (N, K)."""
        maps = self.pool(self.activation(self.norm(self.conv(pixel_values))))
        for number in range(1, 5):
            maps = self.get_submodule(f"layer{number}")(maps)
        logits: Tensor = self.head(maps.mean((2, 3)))
        return logits


def torchvision_resnet(classes: int) -> nn.Module:
    """Return a network whose blocks call their ReLU twice, in place."""
    return PlainNet(
        classes, lambda *sizes: ModuleBlock(*sizes, nn.ReLU(inplace=True)), nn.BatchNorm2d, nn.ReLU(inplace=True)
    )


def efficientnet_lite(classes: int) -> nn.Module:
    """Return a network whose blocks call their ReLU6 twice, in place."""
    return PlainNet(classes, InvertedResidual, nn.BatchNorm2d, nn.ReLU6(inplace=True), (8, 16, 24, 40))


def functional_resnet(classes: int) -> nn.Module:
    """Return a network with GroupNorm that calls functions."""
    return PlainNet(classes, FunctionalBlock, lambda channels: nn.GroupNorm(4, channels), torch.relu)


def shared_relu_resnet(classes: int) -> nn.Module:
    """Return a network with one ReLU for all layers."""
    relu = nn.ReLU()
    return PlainNet(classes, lambda *sizes: ModuleBlock(*sizes, relu), nn.BatchNorm2d, relu)
