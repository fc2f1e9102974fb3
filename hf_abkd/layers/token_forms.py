"""Token forms: the responses of two layers as tokens that see the same cells of the image, in one order."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hf_abkd.layers.connection import Side
from hf_abkd.layers.connectors import AsMap
from hf_abkd.layers.forms import OnGrid
from hf_abkd.layers.layout import Layout, check_layout, plain_layout
from hf_abkd.wording import by


class AsTokens(nn.Module):
    """The same responses as tokens, row by row: any layout on a grid to (N, L, D). Nothing to train.

    Args:
        layout: How the responses lie.
        special: How many of the special tokens stand in front of those of the grid; the others are left out.
        grid: Another grid that those of the grid are brought to; None leaves them where they are.
    """

    def __init__(self, layout: Layout, *, special: int, grid: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.layout, self.special = layout, special
        self.as_map = AsMap(layout)
        self.on_grid = nn.Identity() if grid is None else OnGrid(grid)

    def forward(self, tensor: Tensor) -> Tensor:
        """Return the tokens, (N, L, D)."""
        tokens: Tensor = self.on_grid(self.as_map(tensor)).flatten(2).transpose(1, 2)
        if not self.special:
            return tokens
        return torch.cat([tensor.movedim(self.layout.channel_dim, -1)[:, : self.special], tokens], dim=1)

    def extra_repr(self) -> str:
        """Return how the responses lie."""
        return f"{self.layout.describe()}, special={self.special}"


def as_tokens(layout: Layout, *, special: int) -> nn.Module:
    """Return what makes tokens of responses; the arguments are those of `AsTokens`."""
    as_they_are = layout.order == "NLC" and layout.positions is None and special == layout.special_tokens
    return nn.Identity() if as_they_are else AsTokens(layout, special=special)


def token_layout(side: Side, role: str) -> Layout:
    """Return how the tokens of a layer lie, one row of them for each image; those of a map are its positions.

    Raises:
        ValueError: If the layer has no tokens of the whole image.
    """
    layout = plain_layout(side.shape) if side.layout is None and len(side.shape) == 4 else side.layout
    if layout is None or layout.order == "NC":
        raise ValueError(
            f"the {role}'s tensor of shape {side.shape} does not hold the tokens of a whole image in each row. A layer "
            "that attends within windows, as Swin's do, holds a window in each: relations over the image do not exist "
            "there. Compare its blocks instead, with HiddenStates or Hint, or its boundaries, with ActivationBoundary; "
            "for a layer that does hold whole images, say how it lies (student_layout, teacher_layout)."
        )
    check_layout(layout, side.shape)
    return layout


def paired_tokens(student: Side, teacher: Side) -> tuple[nn.Module, nn.Module, str]:
    """Return what makes the same tokens of two layers, (N, L, D) each of its own width, and that in words.

    Special tokens are kept where both layers have equally many of them, and left out where they do not: a class token
    and registers of the one stand for nothing in the other.

    Args:
        student: The student's tensor.
        teacher: The teacher's.

    Raises:
        ValueError: If the tokens of the two do not see the same cells of the image.
    """
    ours, theirs = token_layout(student, "student"), token_layout(teacher, "teacher")
    if ours.grid is None or theirs.grid is None:
        if ours.order == theirs.order == "NLC" and student.shape[1] == teacher.shape[1]:
            return nn.Identity(), nn.Identity(), "tokens"
        raise ValueError(
            f"the student has {student.shape[1:]} and the teacher {teacher.shape[1:]}, and which of their tokens see "
            "the same cells of the image is not known; say how they lie (student_layout, teacher_layout)"
        )
    if ours.grid != theirs.grid:
        raise ValueError(
            f"the student's tokens lie on a grid of {by(ours.grid)} and the teacher's on one of {by(theirs.grid)}: "
            "relations of tokens are compared one by one. Take models of equal grids (the image size over the patch "
            "size), or let the teacher see images of another size (teacher_processor)."
        )
    special = shared_special_tokens(ours, theirs)
    words = "tokens" if special else "tokens of the grid"
    return as_tokens(ours, special=special), as_tokens(theirs, special=special), words


def shared_special_tokens(ours: Layout, theirs: Layout) -> int:
    """Return how many special tokens are compared: all of them where two layers have equally many, else none."""
    return ours.special_tokens if ours.special_tokens == theirs.special_tokens else 0


def hidden_tokens(student: Side, teacher: Side, *, special: bool) -> tuple[nn.Module, nn.Module, str]:
    """Return what makes the same tokens of two layers, as `paired_tokens`, of other grids too: the teacher's is taken.

    Args:
        student: The student's tensor.
        teacher: The teacher's.
        special: Whether special tokens are kept where both layers have equally many, and the same grid.

    Raises:
        ValueError: If one of them holds no tokens of the image.
    """
    ours, theirs = token_layout(student, "student"), token_layout(teacher, "teacher")
    if ours.grid is None or theirs.grid is None:
        return paired_tokens(student, teacher)
    if ours.grid != theirs.grid:
        resized = AsTokens(ours, special=0, grid=theirs.grid)
        return resized, as_tokens(theirs, special=0), f"tokens, {by(ours.grid)} to {by(theirs.grid)}"
    kept = shared_special_tokens(ours, theirs) if special else 0
    words = "tokens" if kept else "tokens of the grid"
    return as_tokens(ours, special=kept), as_tokens(theirs, special=kept), words
