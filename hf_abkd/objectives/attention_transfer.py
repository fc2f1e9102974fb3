"""Attention transfer: where in the image the responses of a layer are large."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from hf_abkd.layers.connection import Connection, Kind, Side
from hf_abkd.layers.forms import as_maps, same_grid
from hf_abkd.objectives.objective import Objective
from hf_abkd.settings import number

REDUCTIONS = ("mean", "norm")


class AttentionTransfer(Objective):
    """Bring the student's attention map to the teacher's: the mean over channels of |response| ** power, normalised.

    The map has one number for each position of the image, and its Euclidean norm is 1: channels and their number do
    not matter, nor does the scale of the responses. Where grids differ, the finer map is averaged to the coarser.

    Requirements: one layer a side, on a grid over the image (maps, or tokens of image patches); no labels, and no
        connector, as any two widths can be compared.
    Relations: `Hint` compares every response, `NeuronSelectivityTransfer` which positions respond together.
    Paper: Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017,
        https://huggingface.co/papers/1612.03928 (`power` is its p)
    Shapes: student (N, C_S, H_S, W_S), teacher (N, C_T, H_T, W_T); returns ().
    Differs: the formula of the paper and that of the authors' code are different losses, and both are here.
        `reduction="mean"` is that of the code: squared differences, averaged over samples and positions, which is
        weighed by 1000 in CRD's benchmark. `reduction="norm"` is that of the paper: the norm of the difference; of
        what it divides its weight of 1000 by, half of which counts, the number of positions is in the value and the
        batch size is the mean, so that the weight is 500. Maps of other grids are averaged as the paper has it, after
        the power and not before.

    Args:
        reduction: "mean" of the squared differences, or the "norm" of the differences over the number of positions.
        power: What the responses are raised to; with larger numbers the largest count alone.

    Raises:
        ValueError: If there is no such reduction, the power is not positive, or tensors are no maps.

    Example:
        >>> import torch
        >>> from hf_abkd.objectives import AttentionTransfer
        >>> maps = torch.rand(2, 8, 4, 4)
        >>> AttentionTransfer()(maps, 3 * maps.repeat(1, 2, 1, 1)).item() < 1e-12
        True
    """

    equal_shapes: ClassVar[bool] = False
    citation: ClassVar[str] = """@inproceedings{zagoruyko2017paying,
  title     = {Paying More Attention to Attention: Improving the Performance of Convolutional Neural Networks via
               Attention Transfer},
  author    = {Zagoruyko, Sergey and Komodakis, Nikos},
  booktitle = {International Conference on Learning Representations},
  year      = {2017},
  url       = {https://arxiv.org/abs/1612.03928}
}"""

    def __init__(self, *, reduction: Literal["mean", "norm"] = "mean", power: float = 2.0) -> None:
        super().__init__()
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {list(REDUCTIONS)}, got {reduction!r}")
        self.reduction = reduction
        self.power = number("power", power, above=0)
        self.published_weight = 1000.0 if reduction == "mean" else 500.0

    def connect(self, student: Sequence[Side], teacher: Sequence[Side], kind: Kind) -> Connection | None:
        """Propose what makes maps of both; another kind than "identity" is made as for any objective.

        Raises:
            ValueError: If a layer lies on no grid over the image.
        """
        if kind in ("auto", "identity"):
            return as_maps(student[0], teacher[0])
        return super().connect(student, teacher, kind)

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        """Return how far the two attention maps are apart, averaged over samples, shape ()."""
        ours, theirs = (
            functional.normalize(attention.flatten(1), dim=1)
            for attention in same_grid(self._attention(student), self._attention(target))
        )
        squares = (ours - theirs).square()
        if self.reduction == "mean":
            return squares.mean()
        sums = squares.sum(1)
        # The root has no gradient at 0, where the maps are equal.
        norms = torch.where(sums > 0, torch.where(sums > 0, sums, 1.0).sqrt(), 0.0)
        return norms.mean() / squares.shape[1]

    def _attention(self, maps: Tensor) -> Tensor:
        return maps.abs().pow(self.power).mean(1, keepdim=True) if maps.ndim == 4 else maps

    def extra_repr(self) -> str:
        """Show the settings in `repr`, logs and model cards."""
        return f"reduction={self.reduction!r}, power={self.power}"
