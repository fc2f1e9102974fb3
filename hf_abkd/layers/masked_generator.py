"""Masked generator: makes the teacher's map from the student's, of which a random part is hidden in training."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from hf_abkd.layers.connectors import AsMap
from hf_abkd.layers.forms import OnGrid
from hf_abkd.layers.layout import Layout

MASKED = ("channels", "positions")


class MaskedGenerator(nn.Module):
    """Align a map, hide a random part of it, and make another of the rest: any layout to (N, C_teacher, H, W).

    Paper: Yang et al., ECCV 2022, https://huggingface.co/papers/2205.01529

    Args:
        student_channels: Channels of the student's tensor.
        teacher_channels: Channels of the teacher's; a 1x1 convolution brings other numbers to it.
        layout: How the student's tensor lies.
        grid: The teacher's grid; None leaves the student's as it is.
        share: The share that is hidden in training.
        masked: Whether "channels" or "positions" are hidden.
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        *,
        layout: Layout,
        grid: tuple[int, int] | None,
        share: float,
        masked: Literal["channels", "positions"],
    ) -> None:
        super().__init__()
        self.share, self.masked = share, masked
        self.as_map = AsMap(layout)
        self.on_grid = nn.Identity() if grid is None else OnGrid(grid)
        equal = student_channels == teacher_channels
        self.align = nn.Identity() if equal else nn.Conv2d(student_channels, teacher_channels, kernel_size=1)
        self.generation = nn.Sequential(
            nn.Conv2d(teacher_channels, teacher_channels, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, kernel_size=3, padding=1),
        )

    def forward(self, student: Tensor) -> Tensor:
        """Return a map in the form of the teacher's, (N, C_teacher, H, W)."""
        maps: Tensor = self.align(self.on_grid(self.as_map(student)))
        if self.training:
            samples, channels, rows, columns = maps.shape
            shape = (samples, channels, 1, 1) if self.masked == "channels" else (samples, 1, rows, columns)
            maps = maps * (torch.rand(shape, device=maps.device) >= self.share)
        made: Tensor = self.generation(maps)
        return made

    def extra_repr(self) -> str:
        """Return what does not show in the parts."""
        return f"share={self.share}, masked={self.masked!r}"
