"""Hints: the responses of a layer of the teacher, which the student's are to equal behind a regressor."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from hf_abkd.objectives.objective import Objective

REDUCTIONS = ("mean", "sum")


class Hint(Objective):
    """Bring the student's responses, behind a regressor, to the teacher's: squared differences, element by element.

    Requirements: one layer a side of any two models; no labels. The regressor is the connector that a term gets by
        itself: none where shapes are equal, else a 1x1 convolution with BatchNorm and a change of the grid.
    Relations: `FeatureDistance` does so with the means over the image alone, `AttentionTransfer` with where the
        responses are large; `ActivationBoundary` asks only for the side of zero that each response is on.
        `VariationalInformationDistillation` learns how much each channel counts.
    Paper: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, https://huggingface.co/papers/1412.6550
        (there a first stage of hints alone, and knowledge distillation after it). Summed, of one layer, with the
        student's first part in the place of the teacher's, it is head network distillation, and of several layers
        generalized head network distillation (Matsubara et al., https://huggingface.co/papers/2007.15818).
    Shapes: student, teacher (N, ...), of equal shape; returns ().
    Differs from the paper: the mean over elements is the default, as in CRD's benchmark, which weighs it by 100 beside
        the labels; the paper's is half the sum over the elements of a sample: `reduction="sum"` with the weight 0.5.
        Head network distillation sums over the batch, too: "sum" with the batch size as weight. The regressor is a
        1x1 convolution with BatchNorm and without a nonlinearity, where the paper has one as large as the difference
        of the grids; where shapes are equal there is none, which `connector="map"` changes.

    Args:
        reduction: "mean" over elements, or "sum" over the elements of a sample and mean over samples.

    Raises:
        ValueError: If there is no such reduction.

    Example:
        >>> import torch
        >>> from hf_abkd.objectives import Hint
        >>> Hint()(torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)).item()
        1.0
    """

    citation: ClassVar[str] = """@inproceedings{romero2015fitnets,
  title     = {FitNets: Hints for Thin Deep Nets},
  author    = {Romero, Adriana and Ballas, Nicolas and Kahou, Samira Ebrahimi and Chassang, Antoine and Gatta, Carlo and
               Bengio, Yoshua},
  booktitle = {International Conference on Learning Representations},
  year      = {2015},
  url       = {https://arxiv.org/abs/1412.6550}
}"""

    def __init__(self, *, reduction: Literal["mean", "sum"] = "mean") -> None:
        super().__init__()
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {list(REDUCTIONS)}, got {reduction!r}")
        self.reduction = reduction
        self.published_weight = 100.0 if reduction == "mean" else 0.5

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the mean of the squared differences, or the mean over samples of their sums, shape ()."""
        squares = (student - target).square().flatten(1)
        return squares.mean() if self.reduction == "mean" else squares.sum(1).mean()

    def extra_repr(self) -> str:
        """Show the settings in `repr`, logs and model cards."""
        return f"reduction={self.reduction!r}"
