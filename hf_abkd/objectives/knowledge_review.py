"""Knowledge review: each layer of the teacher by the student's layer at its depth and all that lie behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from hf_abkd.layers.connection import Connection, Kind, Side
from hf_abkd.layers.connectors import EachLayer
from hf_abkd.layers.review_fusion import ReviewFusion, as_map, channels_of
from hf_abkd.objectives.objective import Objective
from hf_abkd.settings import whole_number

# Sides of the grids on which maps are compared beside their own, each for half the weight of the one before.
_LEVELS = (4, 2, 1)


class KnowledgeReview(Objective):
    """Have each layer of the student learn the teacher's at its depth together with all that lie behind it.

    From the deepest layer to the first, a layer of the student is fused with what was fused behind it, by shares that
    two maps give for each place, and brought to the teacher's channels and grid. Each result is compared with the
    teacher's layer, as it is and averaged over grids of 4x4, 2x2 and 1x1; the value is the sum over the layers. What
    fuses is trained with the student and saved beside it.

    Requirements: two layers a side or more, in order from the first to the deepest, on grids over the image, or
        vectors, such as the input of the classifier, as the deepest; no labels.
    Relations: `Hint` compares one layer with one. The published results have `CrossEntropy` beside it.
    Paper: Chen et al., "Distilling Knowledge via Knowledge Review", CVPR 2021, https://huggingface.co/papers/2104.09044
        (ReviewKD, KR). Its weight is 1 to 8, by the pair of models, and rises over the first 20 epochs:
        `Term(..., weight=LinearUntil(...))`.
    Shapes: student, target sequences of maps, (N, C, H, W) each, those of the student behind the fusion; returns ().
        Each comparison is a mean over elements, as published, so that a published weight is the weight here.
    Differs from the authors' code: grids need not be square; a level is left out where the map is not larger than it
        in both directions.

    Args:
        width: The channels in which layers are fused; None takes those of the student's deepest layer, 512 at most.

    Raises:
        ValueError: If `width` is not positive, or a layer lies on no grid.

    Example:
        >>> import torch
        >>> from hf_abkd.objectives import KnowledgeReview
        >>> layers = [torch.rand(2, 3, 8, 8), torch.rand(2, 5, 4, 4)]
        >>> KnowledgeReview()(layers, layers).item()
        0.0
    """

    layers: ClassVar[int | None] = None
    citation: ClassVar[str] = """@inproceedings{chen2021distilling,
  title     = {Distilling Knowledge via Knowledge Review},
  author    = {Chen, Pengguang and Liu, Shu and Zhao, Hengshuang and Jia, Jiaya},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2021},
  url       = {https://arxiv.org/abs/2104.09044}
}"""

    def __init__(self, *, width: int | None = None) -> None:
        super().__init__()
        self.width = None if width is None else whole_number("width", width, least=1)

    def connect(self, student: Sequence[Side], teacher: Sequence[Side], kind: Kind) -> Connection:
        """Propose the fusion of the student's layers.

        Raises:
            ValueError: If another kind is asked for, or a layer lies on no grid.
        """
        if kind != "auto":
            raise ValueError(
                f"KnowledgeReview fuses the layers by a connector of its own; connector={kind!r} has no use"
            )
        width = min(512, channels_of(student[-1])) if self.width is None else self.width
        forms = EachLayer([as_map(side) for side in teacher])
        return Connection(ReviewFusion(student, teacher, width), forms, f"fused from deep to shallow, {width} wide")

    def forward(self, student: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        """Return the sum over layers of the weighted mean of the squared differences on all levels, shape ()."""
        return torch.stack([_on_levels(one, other) for one, other in zip(student, target, strict=True)]).sum()

    def extra_repr(self) -> str:
        """Show the settings in `repr`, logs and model cards."""
        return f"width={self.width}"


def _on_levels(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean of the squared differences on all levels of one layer, by their weights, ()."""
    difference = student - teacher
    value, weight, total = difference.square().mean(), 1.0, 1.0
    for side in _LEVELS:
        if side < min(difference.shape[2:]):
            weight /= 2
            # The mean of a difference is the difference of the means.
            value = value + weight * functional.adaptive_avg_pool2d(difference, (side, side)).square().mean()
            total += weight
    return value / total
