"""Connectors: small trainable adapters from a student tensor to the form in which it is compared with the teacher's."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from hf_abkd.layers.layout import Layout
from hf_abkd.layers.normalized_map import normalized_map, pays


class AsMap(nn.Module):
    """The same responses as a map without special tokens: any layout to (N, C, H, W). Nothing to train.

    Args:
        layout: How the responses lie. Tokens need a grid.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        positions = None if layout.positions is None else torch.tensor(layout.positions)
        self.positions: Tensor | None
        # Not saved: it follows from the models, and is found out again.
        self.register_buffer("positions", positions, persistent=False)

    def forward(self, tensor: Tensor) -> Tensor:
        """Return a map, (N, C, H, W).

        Raises:
            ValueError: If tokens form no grid.
        """
        if not self.layout.has_tokens:
            return tensor.movedim(self.layout.channel_dim, 1)
        if self.layout.grid is None:
            raise ValueError(f"tokens of shape {tuple(tensor.shape)} lie on no grid over the image")
        tokens = tensor.movedim(self.layout.channel_dim, 1)[..., self.layout.special_tokens :]
        if self.positions is not None:
            tokens = tokens[..., self.positions]
        return tokens.reshape(*tokens.shape[:2], *self.layout.grid)

    def extra_repr(self) -> str:
        """Return how the responses lie."""
        return self.layout.describe()


@dataclass(frozen=True)
class LinearMap:
    """What a connector does to a tensor, as one linear map.

    Args:
        values: What is mapped, (N, ..., C).
        weight: The weight, (D, C).
        bias: The bias, (D,).
        channel_dim: Where the D channels lie in what the connector returns.
    """

    values: Tensor
    weight: Tensor
    bias: Tensor
    channel_dim: int


class HasLinearMap(ABC):
    """A connector that can say of itself that it is a linear map, and inherits this class to say so.

    Not by a method of this name alone: a user's connector may have a layer that is called so.
    """

    @abstractmethod
    def linear_map(self, student: Tensor) -> LinearMap | None:
        """Return the linear map that `forward` is for this tensor; None if it is none.

        As `forward` does, this moves the statistics of a BatchNorm in training: call one of the two.
        """


class MapConnector(nn.Module, HasLinearMap):
    """1x1 convolution without bias, BatchNorm, and a change of the grid: any layout to (N, C_teacher, H, W).

    A finer grid is averaged before the convolution, a coarser one is interpolated bilinearly after BatchNorm, so that
    the convolution sees the fewer positions.

    Paper: Heo et al., AAAI 2019, https://huggingface.co/papers/1811.03233 (weights from N(0, sqrt(2 / C_teacher)),
        BatchNorm weight 1 and bias 0).
    Differs: the paper has equal grids only.

    Args:
        student_channels: Channels of the student's tensor.
        teacher_channels: Channels of the teacher's.
        layout: How the student's tensor lies; (N, C, H, W) by default.
        grid: The teacher's grid; None leaves the student's as it is.
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        *,
        layout: Layout | None = None,
        grid: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.as_map = AsMap(Layout("NCHW") if layout is None else layout)
        self.grid = grid
        self.convolution = nn.Conv2d(student_channels, teacher_channels, kernel_size=1, bias=False)
        nn.init.normal_(self.convolution.weight, std=math.sqrt(2 / teacher_channels))
        self.normalization = nn.BatchNorm2d(teacher_channels)

    def forward(self, student: Tensor) -> Tensor:
        """Return a map on the teacher's grid, (N, C_teacher, H, W)."""
        maps, grid = self._pooled(student)
        if self._is_linear:
            weight, bias = self._weights(maps)
            maps = functional.conv2d(maps, weight[:, :, None, None], bias)
        else:
            maps = self.normalization(self.convolution(maps))
        if grid != (maps.shape[2], maps.shape[3]):
            maps = functional.interpolate(maps, size=grid, mode="bilinear", align_corners=False)
        return maps

    def linear_map(self, student: Tensor) -> LinearMap | None:
        """Return the linear map that `forward` is for this tensor, for channels last; None if it is none."""
        if type(self).forward is not MapConnector.forward:
            return None
        maps, grid = self._pooled(student)
        if not self._is_linear or grid != (maps.shape[2], maps.shape[3]):
            return None
        return LinearMap(maps.movedim(1, -1), *self._weights(maps), channel_dim=1)

    @property
    def _is_linear(self) -> bool:
        # Another one may have been put in its place, which counts over all processes.
        plain = type(self.normalization) is nn.BatchNorm2d
        return plain and pays(self.convolution.in_channels, self.convolution.out_channels)

    def _pooled(self, student: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return a map on the coarser of the two grids, and the teacher's grid."""
        maps: Tensor = self.as_map(student)
        student_grid = (maps.shape[2], maps.shape[3])
        grid = student_grid if self.grid is None else self.grid
        coarser = (min(student_grid[0], grid[0]), min(student_grid[1], grid[1]))
        return maps if student_grid == coarser else functional.adaptive_avg_pool2d(maps, coarser), grid

    def _weights(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        return normalized_map(maps.movedim(1, -1), self.convolution.weight.flatten(1), self.normalization)

    def extra_repr(self) -> str:
        """Return what does not show in the parts."""
        return "" if self.grid is None else f"to {self.grid[0]}x{self.grid[1]}"


class TokenConnector(nn.Module, HasLinearMap):
    """Linear map without bias, then BatchNorm over features: (N, L, D_student) to (N, L, D_teacher).

    The same map as `MapConnector`, with tokens in the place of pixels: statistics are taken per feature over all
    tokens, so a unit's boundary does not depend on the other units of its token.
    """

    def __init__(self, student_features: int, teacher_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(student_features, teacher_features, bias=False)
        nn.init.normal_(self.linear.weight, std=math.sqrt(2 / teacher_features))
        self.normalization = nn.BatchNorm1d(teacher_features)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens of the teacher's width, shape (N, L, D_teacher)."""
        as_map = self._as_map(tokens)
        if as_map is not None:
            return functional.linear(tokens, as_map.weight, as_map.bias)
        mapped = self.linear(tokens)
        normalized: Tensor = self.normalization(mapped.flatten(0, 1))
        return normalized.view_as(mapped)

    def linear_map(self, tokens: Tensor) -> LinearMap | None:
        """Return the linear map that `forward` is for these tokens; None if it is none."""
        return self._as_map(tokens) if type(self).forward is TokenConnector.forward else None

    def _as_map(self, tokens: Tensor) -> LinearMap | None:
        linear, norm = self.linear, self.normalization
        if type(norm) is not nn.BatchNorm1d or not pays(linear.in_features, linear.out_features):
            return None
        return LinearMap(tokens, *normalized_map(tokens, linear.weight, norm), channel_dim=-1)


class EachLayer(nn.ModuleList):
    """A module for each of several layers: as many tensors in, as many out."""

    def forward(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return what each tensor's own module makes of it."""
        return tuple(module(tensor) for module, tensor in zip(self, tensors, strict=True))


class LinearHead(nn.Sequential):
    """An extra classifier: (N, D) or (N, D, 1, 1) to (N, K_teacher)."""

    def __init__(self, student_features: int, teacher_classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(student_features, teacher_classes))


class DomainDiscriminator(nn.Module):
    """Tell domains apart from features, whose gradient is reversed: (N, ...) to one logit, (N, 1).

    What is below learns features by which the domains cannot be told.

    Paper: Ganin and Lempitsky, ICML 2015, https://huggingface.co/papers/1409.7495

    Args:
        features: How many numbers a sample has.
        hidden: The width of the layer between.
    """

    def __init__(self, features: int, hidden: int = 256) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, student: Tensor) -> Tensor:
        """Return the logit of the second domain for each sample, (N, 1)."""
        # The value of the features, and the negative of their gradient.
        reversed_features = 2 * student.detach() - student
        logits: Tensor = self.layers(reversed_features)
        return logits


class ClassSelection(nn.Module):
    """Some of the classes, in another order: (N, K) to (N, number of chosen classes). Nothing to train."""

    def __init__(self, classes: Sequence[int]) -> None:
        super().__init__()
        self.classes: Tensor
        self.register_buffer("classes", torch.tensor(classes, dtype=torch.long), persistent=False)

    def forward(self, logits: Tensor) -> Tensor:
        """Return the logits of the chosen classes."""
        return logits[:, self.classes]


class ClassPositions(nn.Module):
    """The labels that belong to a `ClassSelection`: the position of each label's class, -100 where it is not chosen."""

    def __init__(self, classes: Sequence[int]) -> None:
        super().__init__()
        positions = torch.full((max(classes) + 1,), -100)
        positions[list(classes)] = torch.arange(len(classes))
        self.positions: Tensor
        self.register_buffer("positions", positions, persistent=False)

    def forward(self, labels: Tensor) -> Tensor:
        """Return the positions of the labels, (N,)."""
        known = (labels >= 0) & (labels < len(self.positions))
        return torch.where(known, self.positions[labels.clamp(0, len(self.positions) - 1)], -100)
