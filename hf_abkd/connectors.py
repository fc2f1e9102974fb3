"""Connectors: small trainable adapters from a student tensor to the shape of a teacher tensor."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class MapConnector(nn.Sequential):
    """1x1 convolution without bias, then BatchNorm: (N, C_student, H, W) to (N, C_teacher, H, W).

    Paper: Heo et al., AAAI 2019, https://huggingface.co/papers/1811.03233 (weights from N(0, sqrt(2 / C_teacher)),
        BatchNorm weight 1 and bias 0).
    """

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        convolution = nn.Conv2d(student_channels, teacher_channels, kernel_size=1, bias=False)
        nn.init.normal_(convolution.weight, std=math.sqrt(2 / teacher_channels))
        super().__init__(convolution, nn.BatchNorm2d(teacher_channels))


class TokenConnector(nn.Module):
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
        mapped = self.linear(tokens)
        normalized: Tensor = self.normalization(mapped.flatten(0, 1))
        return normalized.view_as(mapped)


class LinearHead(nn.Sequential):
    """An extra classifier: (N, D) or (N, D, 1, 1) to (N, K_teacher)."""

    def __init__(self, student_features: int, teacher_classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(student_features, teacher_classes))


def connector_for(student_shape: torch.Size, teacher_shape: torch.Size) -> nn.Module:
    """Return the connector that brings a student tensor to a teacher tensor's shape.

    Identity where the shapes are equal already, as in the paper. Shapes include the batch.

    Raises:
        ValueError: If the two tensors lie on different grids or have layouts that cannot be mapped.
    """
    student, teacher = tuple(student_shape), tuple(teacher_shape)
    if student == teacher:
        return nn.Identity()
    if len(student) == len(teacher) == 4 and student[2:] == teacher[2:]:
        return MapConnector(student[1], teacher[1])
    if len(student) == len(teacher) == 3 and student[1] == teacher[1]:
        return TokenConnector(student[2], teacher[2])
    if len(teacher) == 2 and len(student) >= 2 and math.prod(student[1:]) == student[1]:
        return LinearHead(student[1], teacher[1])
    raise ValueError(
        f"no connector maps {student[1:]} (student) to {teacher[1:]} (teacher). Maps (C, H, W) need the same H and W, "
        "tokens (L, D) the same L. Pair layers on equal grids, or give the term your own module as `connector`."
    )
