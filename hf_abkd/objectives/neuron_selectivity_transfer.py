"""Neuron selectivity transfer: which positions of the image the channels of a layer select together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from hf_abkd.layers.connection import Connection, Kind, Side
from hf_abkd.layers.forms import as_maps, same_grid
from hf_abkd.objectives.objective import Objective


class NeuronSelectivityTransfer(Objective):
    """Bring the distribution of the student's channels to that of the teacher's, each channel a pattern of the image.

    The pattern of a channel is its map, divided by its norm. The value is the squared maximum mean discrepancy of the
    two sets of patterns under the kernel k(x, y) = (x . y) ** 2: the mean of k over the pairs of channels of the
    student, plus that over those of the teacher, minus twice that over the mixed pairs. Where grids differ, the finer
    maps are averaged to the coarser.

    Requirements: one layer a side, on a grid over the image; no labels, and no connector, as any two widths can be
        compared.
    Relations: `AttentionTransfer` sums over the channels first; `InterChannelCorrelation` compares channel by channel.
    Paper: Huang and Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", 2017,
        https://huggingface.co/papers/1707.01219 (its polynomial kernel with degree 2 and constant 0)
    Shapes: student (N, C_S, H_S, W_S), teacher (N, C_T, H_T, W_T); returns (). The weight in CRD's benchmark is 50,
        with this reduction: the mean over samples.
    Differs from the paper: nothing. It is computed by products over channels or over positions, whichever are fewer,
        which is the same number and never takes more memory than the maps.

    Raises:
        ValueError: If tensors are no maps.

    Example:
        >>> import torch
        >>> from hf_abkd.objectives import NeuronSelectivityTransfer
        >>> maps = torch.rand(2, 8, 4, 4)
        >>> abs(NeuronSelectivityTransfer()(maps, 3 * maps.flip(1)).item()) < 1e-6
        True
    """

    equal_shapes: ClassVar[bool] = False
    published_weight: float = 50.0
    citation: ClassVar[str] = """@misc{huang2017like,
  title  = {Like What You Like: Knowledge Distill via Neuron Selectivity Transfer},
  author = {Huang, Zehao and Wang, Naiyan},
  year   = {2017},
  url    = {https://arxiv.org/abs/1707.01219}
}"""

    def connect(self, student: Sequence[Side], teacher: Sequence[Side], kind: Kind) -> Connection | None:
        """Propose what makes maps of both; another kind than "identity" is made as for any objective.

        Raises:
            ValueError: If a layer lies on no grid over the image.
        """
        if kind in ("auto", "identity"):
            return as_maps(student[0], teacher[0])
        return super().connect(student, teacher, kind)

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the squared discrepancy averaged over samples, shape ()."""
        ours, theirs = (functional.normalize(maps.flatten(2), dim=2) for maps in same_grid(student, target))
        if ours.shape[2] <= max(ours.shape[1], theirs.shape[1]):
            # The sum of k over pairs of channels is a squared norm of products over positions, P x P.
            products = [patterns.transpose(1, 2) @ patterns / patterns.shape[1] for patterns in (ours, theirs)]
            return (products[0] - products[1]).square().sum((1, 2)).mean()
        return (_mean_kernel(ours, ours) + _mean_kernel(theirs, theirs) - 2 * _mean_kernel(ours, theirs)).mean()


def _mean_kernel(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean of k over all pairs of a pattern of the one and one of the other, (N,)."""
    return (first @ second.transpose(1, 2)).square().mean((1, 2))
