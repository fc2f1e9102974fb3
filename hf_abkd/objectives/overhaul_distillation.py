"""Overhaul distillation: the teacher's responses before an activation, where it matters that the student has them."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from hf_abkd.layers.connection import Connection, Kind, Side, connect
from hf_abkd.layers.connectors import AsMap
from hf_abkd.layers.processes import summed
from hf_abkd.objectives.objective import Known, Objective

logger = logging.getLogger(__name__)


class OverhaulDistillation(Objective):
    """Match the teacher's responses before an activation, except where both models are off anyway.

    The teacher's responses are cut off from below at a margin, one for each channel: the mean of its negative
    responses. The value is the squared distance, without the units in which the student lies below a target that is
    not above 0: behind the activation they do not differ.

    Where the teacher's tensor is the output of a BatchNorm, its responses are taken for normally distributed, and the
    margin is the mean of such a response given that it is negative. Elsewhere (behind a residual sum, or of a cached
    teacher) the margin is the mean of the negative responses in all training batches so far, over all processes, which
    the log says.

    Requirements: one tensor of each model before its activation, on a grid over the image; no labels. A module that a
        term names without a side means the input of its activation. Of a cached teacher it is a feature, stored and
        named as the input of an activation: `--features ACTIVATION:input`.
    Relations: `ActivationBoundary`, by the same authors, compares the sides alone.
    Paper: Heo et al., "A Comprehensive Overhaul of Feature Distillation", ICCV 2019,
        https://huggingface.co/papers/1904.01866
    Shapes: student, target (N, C, ...), before the activation; returns ().
    Differs from the authors' code: they sum over elements and average over samples, `reduction="sum"`, weigh layer i of
        n by 1 / 2^(n - i) and all by 1 / 1000: `weight=1 / 1000 / 2 ** (n - i)`. The default is the mean over elements,
        for which the same weight is C*H*W times larger, of the teacher's C channels on an H x W grid. They take the
        margin from the last BatchNorm before a residual sum as if it gave the sum; where a channel is hardly ever
        negative they take three standard deviations, which here is the same formula in logarithms.

    Args:
        reduction: "mean" over all elements, or "sum" over the elements of a sample and mean over samples.

    Raises:
        ValueError: If `reduction` is neither of the two, or the tensors lie on no grid over the image.
        RuntimeError: If a batch comes before `begin`.

    Example:
        >>> import torch
        >>> from hf_abkd.objectives.objective import Known
        >>> from hf_abkd.objectives import OverhaulDistillation
        >>> objective = OverhaulDistillation(reduction="sum")
        >>> objective.begin(Known(targets=((1, 3),)))
        >>> objective(torch.tensor([[3.0, -5.0, 0.5]]), torch.tensor([[2.0, -4.0, -0.5]])).item()
        2.0
    """

    before_activation: ClassVar[bool] = True
    asks: ClassVar[AbstractSet[str]] = frozenset({"normalizations"})
    exchanges: ClassVar[bool] = True
    #: The margin may depend on the other samples of a batch.
    per_sample: ClassVar[bool] = False
    citation: ClassVar[str] = """@inproceedings{heo2019comprehensive,
  title     = {A Comprehensive Overhaul of Feature Distillation},
  author    = {Heo, Byeongho and Kim, Jeesoo and Yun, Sangdoo and Park, Hyojin and Kwak, Nojun and Choi, Jin Young},
  booktitle = {Proceedings of the IEEE/CVF International Conference on Computer Vision},
  year      = {2019},
  url       = {https://arxiv.org/abs/1904.01866}
}"""

    def __init__(self, *, reduction: Literal["mean", "sum"] = "mean") -> None:
        super().__init__()
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
        self.reduction = reduction
        # Of the last layer; with the mean it depends on how large the layer is.
        self.published_weight = 1 / 1000 if reduction == "sum" else 1.0
        self._follows_batches = True
        # The margin; where it follows the batches, sum and number of the negative responses it is the mean of.
        self.margin: Tensor | None
        self.negatives: Tensor | None
        self.register_buffer("margin", None)
        self.register_buffer("negatives", None)

    def connect(self, student: Sequence[Side], teacher: Sequence[Side], kind: Kind) -> Connection:
        """Propose a 1x1 convolution with BatchNorm, as published, also where the widths agree.

        Raises:
            ValueError: If a layer lies on no grid, or another kind than "identity" or "map" is asked for.
        """
        if kind not in ("auto", "identity", "map"):
            raise ValueError(f"OverhaulDistillation can be connected by 'map' or 'identity', not by {kind!r}")
        ours, theirs = (side.layout_or_plain for side in (student[0], teacher[0]))
        shapes = student[0].shape, teacher[0].shape
        connection = connect(*shapes, student_layout=ours, teacher_layout=theirs, kind="map")
        if kind == "identity":
            connect(*shapes, student_layout=ours, teacher_layout=theirs, kind="identity")
            connection = Connection(AsMap(ours), AsMap(theirs), "identity")
        return connection

    def begin(self, known: Known) -> None:
        """Take the margin from the teacher's BatchNorm, or begin to measure it."""
        (shape,) = known.targets
        norm = known.normalizations[0] if known.normalizations else None
        self._follows_batches = norm is None
        if norm is None:
            self.margin, self.negatives = torch.zeros(shape[1]), torch.zeros(2, shape[1])
            logger.info(
                "OverhaulDistillation: the teacher's tensor is not the output of a BatchNorm that is there, so the "
                "margin is the mean of its negative responses in the training batches so far"
            )
        else:
            self.margin, self.negatives = mean_below_zero(norm), None

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the squared distance where it counts, reduced over elements and averaged over samples, shape ()."""
        if self.margin is None:
            raise RuntimeError(
                "OverhaulDistillation has no margin yet: call `begin`, as a run does before its first step"
            )
        if self._follows_batches and self.training:
            self._measure(target)
        margin = self.margin.to(target.dtype).view(-1, *[1] * (target.ndim - 2))
        wanted = torch.maximum(target, margin)
        counts = (student > wanted) | (wanted > 0)
        squares = (student - wanted).square() * counts
        return squares.sum() / max(student.numel() if self.reduction == "mean" else len(student), 1)

    @torch.no_grad()
    def _measure(self, target: Tensor) -> None:
        """Move the margin to the mean of all negative responses with those of a batch among them."""
        if self.margin is None or self.negatives is None:
            return
        others = [dim for dim in range(target.ndim) if dim != 1]
        seen = torch.stack([target.clamp(max=0).sum(others), (target < 0).sum(others).to(target.dtype)])
        self.negatives += summed(seen).to(self.negatives.dtype)
        self.margin.copy_(self.negatives[0] / self.negatives[1].clamp(min=1))

    def extra_repr(self) -> str:
        """Show the settings in `repr`, logs and model cards."""
        return f"reduction={self.reduction!r}"


def mean_below_zero(norm: Any) -> Tensor:
    """Return the mean of the negative ones among the responses of a BatchNorm, taken for normal; 0 if there are none.

    Shapes: returns (C,), float32.
    """
    affine = norm.weight is not None
    spread = norm.weight.detach().double().cpu().abs() if affine else torch.ones(norm.num_features).double()
    mean = torch.zeros_like(spread) if norm.bias is None else norm.bias.detach().double().cpu()
    place = -mean / spread
    # Of a normal distribution, cut off: its density at the cut over the share that is left.
    density = -place.square() / 2 - math.log(2 * math.pi) / 2
    below = mean - spread * (density - torch.special.log_ndtr(place)).exp()
    return torch.where(spread > 0, below, mean.clamp(max=0)).float()
