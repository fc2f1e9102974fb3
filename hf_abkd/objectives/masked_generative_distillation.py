"""Masked generative distillation: the teacher's map, made from a part of the student's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from torch import Tensor

from hf_abkd.layers.connection import Connection, Kind, Side
from hf_abkd.layers.connectors import AsMap
from hf_abkd.layers.forms import map_layouts
from hf_abkd.layers.masked_generator import MASKED, MaskedGenerator
from hf_abkd.objectives.objective import Objective
from hf_abkd.settings import number


class MaskedGenerativeDistillation(Objective):
    """Have a generator make the teacher's map from the student's, of which a random part is hidden in each step.

    The student's map is brought to the teacher's channels and grid, a random share of its channels or positions is set
    to 0, and two 3x3 convolutions with ReLU between them make a map of it. The value is its squared distance from the
    teacher's, summed over a sample and averaged over samples.

    Requirements: one layer a side, on a grid over the image; no labels. Alignment, masks and generator are the
        connector that a term gets by itself, and train with the student, are saved in checkpoints, and are no part of
        the student that is exported. Without them (another connector) this is `Hint(reduction="sum")`.
    Relations: `Hint` compares the maps themselves.
    Paper: Yang et al., "Masked Generative Distillation", ECCV 2022, https://huggingface.co/papers/2205.01529
        (`share` is its lambda; for classification 0.15 of the last layer)
    Shapes: student, teacher (N, C, H, W), of equal shape; returns (). The published weight is 7e-5 for classification,
        with this reduction.
    Differs from the authors' code: nothing for classification, where the code hides channels; the paper's figure, and
        its code for detection and segmentation, hide positions: `masked="positions"`. Grids that differ are made equal.
        The random numbers are those of the run, as dropout's are, which its checkpoints keep; nothing is hidden in
        evaluation.

    Args:
        share: The share that is hidden.
        masked: What is hidden: whole "channels", or "positions" in all channels.

    Raises:
        ValueError: If `share` is not in [0, 1), or nothing of that name can be hidden.

    Example:
        >>> import torch
        >>> from hf_abkd.objectives import MaskedGenerativeDistillation
        >>> MaskedGenerativeDistillation()(torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)).item()
        48.0
    """

    pairs = "last"
    published_weight: float = 7e-5
    citation: ClassVar[str] = """@inproceedings{yang2022masked,
  title     = {Masked Generative Distillation},
  author    = {Yang, Zhendong and Li, Zhe and Shao, Mingqi and Shi, Dachuan and Yuan, Zehuan and Yuan, Chun},
  booktitle = {European Conference on Computer Vision},
  year      = {2022},
  url       = {https://arxiv.org/abs/2205.01529}
}"""

    def __init__(self, *, share: float = 0.15, masked: Literal["channels", "positions"] = "channels") -> None:
        super().__init__()
        self.share = number("share", share, least=0, below=1)
        if masked not in MASKED:
            raise ValueError(f"masked must be one of {list(MASKED)}, got {masked!r}")
        self.masked = masked

    def connect(self, student: Sequence[Side], teacher: Sequence[Side], kind: Kind) -> Connection | None:
        """Propose alignment, masks and generator; another kind than "auto" is made as for any objective.

        Raises:
            ValueError: If a layer lies on no grid over the image.
        """
        if kind != "auto":
            return super().connect(student, teacher, kind)
        ours, theirs = map_layouts(student[0], teacher[0])
        channels = student[0].shape[ours.channel_dim], teacher[0].shape[theirs.channel_dim]
        generator = MaskedGenerator(*channels, layout=ours, grid=theirs.grid, share=self.share, masked=self.masked)
        return Connection(generator, AsMap(theirs), "masked generator")

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the squared distance averaged over samples, shape ()."""
        return (student - target).square().flatten(1).sum(1).mean()

    def extra_repr(self) -> str:
        """Show the settings in `repr`, logs and model cards."""
        return f"share={self.share}, masked={self.masked!r}"
