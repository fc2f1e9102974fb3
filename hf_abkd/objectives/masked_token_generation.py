"""Masked token generation: the teacher's tokens of places that are hidden, made from the student's others (ViTKD)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from hf_abkd.layers.connection import Connection, Kind, Side
from hf_abkd.layers.connectors import AsMap
from hf_abkd.layers.forms import OnGrid, map_layouts
from hf_abkd.objectives.objective import Known, Objective
from hf_abkd.settings import number


class MaskedTokenGeneration(Objective):
    """Have a generator make the teacher's tokens of random places of the image from the student's tokens of the others.

    The student's tokens are brought to the teacher's width by a linear map. In each step of training, a random share of
    the places of each image gets one learnt token in their stead, two 3x3 convolutions with ReLU between them make a
    map of it, and the value is the squared distance from the teacher's tokens at the hidden places, summed over an
    image, divided by the share and averaged over images.

    Requirements: one layer a side, on a grid over the image; no labels. Special tokens have no place in the image and
        are left out. The linear map is the connector that a term gets by itself; it, the learnt token and the generator
        train with the student, are saved in checkpoints, and are no part of the student that is exported.
    Relations: `MaskedGenerativeDistillation` hides zeros, channels of CNNs by default, and compares all places;
        `HiddenStates` is what the same paper takes for the first blocks. `vitkd(student, teacher)` puts both together.
    Paper: Yang et al., "ViTKD: Practical Guidelines for ViT feature knowledge distillation", 2022,
        https://huggingface.co/papers/2209.02432 (`share` is its lambda, 0.5; of the last block)
    Shapes: student, teacher (N, C, H, W), of equal shape; returns (). The published weight is 3e-6.
    Differs from the authors' code: nothing in the formula; the division by the share is that of the code, with which
        its weights were published. Grids that differ are made equal, on the student's side. The random numbers are
        those of the run, as dropout's are, which its checkpoints keep. In evaluation nothing is hidden and all places
        count.

    Args:
        share: The share of the places that is hidden.

    Raises:
        ValueError: If `share` is not in (0, 1).
        RuntimeError: If it has not begun: the generator is as wide as the teacher's layer.

    Example:
        >>> import torch
        >>> from hf_abkd.objectives import MaskedTokenGeneration
        >>> from hf_abkd.objectives.objective import Known
        >>> objective, maps = MaskedTokenGeneration(), torch.rand(2, 8, 4, 4)
        >>> objective.begin(Known(targets=((2, 8, 4, 4),)))  # a run does that
        >>> objective(maps, maps).shape
        torch.Size([])
    """

    trains: ClassVar[bool] = True
    pairs = "last"
    published_weight: float = 3e-6
    citation: ClassVar[str] = """@article{yang2022vitkd,
  title   = {ViTKD: Practical Guidelines for ViT feature knowledge distillation},
  author  = {Yang, Zhendong and Li, Zhe and Zeng, Ailing and Li, Zexian and Yuan, Chun and Li, Yu},
  journal = {arXiv preprint arXiv:2209.02432},
  year    = {2022},
  url     = {https://arxiv.org/abs/2209.02432}
}"""

    def __init__(self, *, share: float = 0.5) -> None:
        super().__init__()
        self.share = number("share", share, above=0, below=1)
        #: What stands at a hidden place, (C,).
        self.hidden: nn.Parameter | None = None
        self.generation: nn.Module | None = None

    def connect(self, student: Sequence[Side], teacher: Sequence[Side], kind: Kind) -> Connection | None:
        """Propose a linear map to the teacher's width and grid; another kind than "auto" is made as for any objective.

        Raises:
            ValueError: If a layer lies on no grid over the image.
        """
        if kind != "auto":
            return super().connect(student, teacher, kind)
        ours, theirs = map_layouts(student[0], teacher[0])
        parts: list[nn.Module] = [AsMap(ours)]
        if ours.grid != theirs.grid and theirs.grid is not None:
            parts.append(OnGrid(theirs.grid))
        channels = student[0].shape[ours.channel_dim], teacher[0].shape[theirs.channel_dim]
        if channels[0] != channels[1]:
            parts.append(nn.Conv2d(*channels, kernel_size=1))
        words = "linear" if channels[0] != channels[1] else "identity"
        return Connection(nn.Sequential(*parts), AsMap(theirs), words)

    def begin(self, known: Known) -> None:
        """Make the learnt token and the generator, as wide as the teacher's layer."""
        if self.hidden is None:
            channels = known.targets[0][1]
            self.hidden = nn.Parameter(torch.zeros(channels))
            self.generation = nn.Sequential(
                nn.Conv2d(channels, channels, kernel_size=3, padding=1),
                nn.ReLU(),
                nn.Conv2d(channels, channels, kernel_size=3, padding=1),
            )

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the squared distance at the hidden places over their share, averaged over samples, shape ()."""
        if self.hidden is None or self.generation is None:
            raise RuntimeError("MaskedTokenGeneration has not begun: outside of a run, call `begin` first")
        hidden = self.hidden_places(student)
        # Also where nothing is hidden the learnt token is in the graph: what no term reaches would be frozen.
        made = self.generation(torch.where(hidden, self.hidden.view(-1, 1, 1), student))
        squares: Tensor = (made - target).square()
        if self.training:
            squares = squares * hidden / self.share
        return squares.flatten(1).sum(1).mean()

    def hidden_places(self, maps: Tensor) -> Tensor:
        """Return which places of each image are hidden, (N, 1, H, W): equally many, drawn anew; none in evaluation."""
        if not self.training:
            return torch.zeros_like(maps[:, :1], dtype=torch.bool)
        places = maps.shape[2] * maps.shape[3]
        shown = int(places * (1 - self.share))
        order = torch.rand(len(maps), places, device=maps.device).argsort(1).argsort(1)
        return (order >= shown).view(len(maps), 1, *maps.shape[2:])

    def extra_repr(self) -> str:
        """Show the settings in `repr`, logs and model cards."""
        return f"share={self.share}"
