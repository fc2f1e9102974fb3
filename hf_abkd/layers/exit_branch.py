"""Exit branch: from the responses of one layer to logits, for a student that is to classify at several depths."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from hf_abkd.layers.connection import Side
from hf_abkd.layers.connectors import AsMap
from hf_abkd.layers.forms import layout_of
from hf_abkd.layers.layout import Layout
from hf_abkd.layers.token_forms import as_tokens

# Tokens are merged until the grid is no finer than this: 49 patches of an image of 224x224 pixels.
_GRID = 7
_HEADS = 4


def exit_branch(side: Side, classes: int, blocks: int) -> nn.Module:
    """Return an exit from a layer: of a map by convolutions, of tokens by attention.

    A map is halved by so many blocks of separable convolutions, each twice as wide, but not to less than two rows or
    columns, and averaged; without any block it goes through one 1x1 convolution. Tokens are merged by fours until at
    most 7 rows or columns are left, go through so many blocks of a transformer, at least one, and are read at the class
    token, or averaged where there is none. Then follow the logits.

    Paper: Hao et al., NeurIPS 2023, https://huggingface.co/papers/2310.19444

    Args:
        side: What is known of the layer.
        classes: How many logits there are.
        blocks: How many blocks the exit has.

    Raises:
        ValueError: If the layer is a vector, or its tokens lie on no grid over the image.
    """
    layout = layout_of(side)
    if layout.grid is None:
        raise ValueError(
            f"an exit reads a map or tokens on a grid over the image, and the layer of shape {side.shape[1:]} is none; "
            "name another, or give the term your own module as `connector`"
        )
    channels = side.shape[layout.channel_dim]
    made = _of_tokens if layout.has_tokens else _of_map
    branch = made(channels, layout, layout.grid, classes, blocks)
    branch.apply(_initialized)
    return branch


def _of_map(channels: int, layout: Layout, grid: tuple[int, int], classes: int, blocks: int) -> nn.Module:
    # BatchNorm of the last block needs more than one position, as there may be one image.
    halvings = min(blocks, max(int(math.log2(min(grid))) - 1, 0))
    widths = [channels * 2**number for number in range(halvings + 1)]
    parts: list[nn.Module] = [_separable(*pair) for pair in itertools.pairwise(widths)]
    parts = parts or [nn.Conv2d(channels, channels, kernel_size=1)]
    return nn.Sequential(AsMap(layout), *parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))


def _separable(inputs: int, outputs: int) -> nn.Sequential:
    """Return two separable 3x3 convolutions, each with BatchNorm and ReLU; the first halves the grid."""

    def one(width: int, stride: int) -> list[nn.Module]:
        return [
            nn.Conv2d(inputs, inputs, kernel_size=3, stride=stride, padding=1, groups=inputs, bias=False),
            nn.Conv2d(inputs, width, kernel_size=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]

    return nn.Sequential(*one(inputs, 2), *one(outputs, 1))


def _of_tokens(features: int, layout: Layout, grid: tuple[int, int], classes: int, blocks: int) -> nn.Module:
    heads = next(number for number in range(_HEADS, 0, -1) if features % number == 0)
    merges = []
    while min(grid) >= 2 * _GRID and grid[0] % 2 == grid[1] % 2 == 0:
        merges.append(MergedPatches(features, layout.special_tokens, grid))
        grid = (grid[0] // 2, grid[1] // 2)
    attention = [
        nn.TransformerEncoderLayer(
            features, heads, 4 * features, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        for _ in range(max(blocks, 1))
    ]
    tokens = as_tokens(layout, special=layout.special_tokens)
    read = ReadTokens(class_token=layout.special_tokens > 0)
    return nn.Sequential(tokens, *merges, *attention, read, nn.Linear(features, classes))


class MergedPatches(nn.Module):
    """Four neighbouring patches as one of the same width; special tokens stay: (N, S + H * W, D) to a quarter of H * W.

    Args:
        features: The width.
        special: How many special tokens there are in front.
        grid: Rows and columns of the patches, both even.
    """

    def __init__(self, features: int, special: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.special, self.grid = special, grid
        self.normalization = nn.LayerNorm(4 * features)
        self.reduction = nn.Linear(4 * features, features, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the tokens, special ones first."""
        special, patches = tokens[:, : self.special], tokens[:, self.special :]
        maps = patches.transpose(1, 2).reshape(len(tokens), -1, *self.grid)
        merged = functional.pixel_unshuffle(maps, 2).flatten(2).transpose(1, 2)
        return torch.cat([special, functional.gelu(self.reduction(self.normalization(merged)))], dim=1)


class ReadTokens(nn.Module):
    """One vector of tokens, (N, L, D) to (N, D): the class token, which is the first, or the mean of all.

    Args:
        class_token: Whether there is a class token.
    """

    def __init__(self, *, class_token: bool) -> None:
        super().__init__()
        self.class_token = class_token

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the vector."""
        return tokens[:, 0] if self.class_token else tokens.mean(1)


def _initialized(module: nn.Module) -> None:
    """Give the layers of an exit the weights that they begin with."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
