"""Singular vector distillation: how the main directions of the channels change from one layer to the next."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from hf_abkd.layers.connection import Connection, Kind, Side
from hf_abkd.layers.forms import each_of_equal_channels
from hf_abkd.objectives.objective import Objective
from hf_abkd.settings import number, whole_number

# Of the student more vectors are looked at than of the teacher: the same direction may come later there.
_FURTHER = 3
# Squared singular values closer than this share of the largest count as this far apart: the slope of a singular vector
# grows without limit as they meet.
_CLOSEST = 1e-3


class SingularVectorDistillation(Objective):
    """Match how the leading singular vectors of a layer go with those of the layer before it.

    A map is a matrix of positions and channels; its leading right singular vectors are the directions among the
    channels in which most of it lies. Each vector of the teacher is met by the student's that is most like it, of the
    fitting sign, and both are scaled by the teacher's singular value. Of two layers that follow each other the kernel
    exp(-(a - b)^2 / bandwidth) of each pair of entries is compared between the models.

    Requirements: two layers a side or more, in order, on grids over the image; no labels. Layers of other widths are
        brought to the teacher's by a 1x1 convolution with BatchNorm, which the paper does not do.
    Relations: `FlowOfSolutionProcedure` compares the products of two layers, and all directions as they are.
    Paper: Lee, Kim and Song, "Self-supervised Knowledge Distillation Using Singular Value Decomposition", ECCV 2018,
        https://huggingface.co/papers/1807.06819 (KD-SVD)
    Shapes: student, target sequences of maps, (N, C, H, W) each, C as the other model's; returns (). The sum over the
        pairs of layers of means over entries and samples. The authors sum over the entries: of layers of C1 and C2
        channels their weight is C1 * C2 * `vectors` times larger here.
    Differs from the authors' code: singular vectors are eigenvectors of the products of the channels, which are smaller
        than the maps; their slope is bounded where singular values meet, instead of setting what is not finite to 0; of
        the teacher's vectors and their negatives those are taken whose entries have a positive sum, where theirs are
        as the decomposition returns them; all layers are compared with as many vectors as the narrowest has.

    Args:
        vectors: How many leading vectors of the teacher are compared.
        bandwidth: What squared differences are divided by.

    Raises:
        ValueError: If a setting is out of range, or the layers are fewer than two or no maps of equal channels.

    Example:
        >>> import torch
        >>> from hf_abkd.objectives import SingularVectorDistillation
        >>> layers = [torch.rand(2, 6, 8, 8), torch.rand(2, 5, 4, 4)]
        >>> round(SingularVectorDistillation()(layers, layers).item(), 6)
        0.0
    """

    layers: ClassVar[int | None] = None
    equal_shapes: ClassVar[bool] = False
    citation: ClassVar[str] = """@inproceedings{lee2018self,
  title     = {Self-supervised Knowledge Distillation Using Singular Value Decomposition},
  author    = {Lee, Seung Hyun and Kim, Dae Ha and Song, Byung Cheol},
  booktitle = {Proceedings of the European Conference on Computer Vision},
  year      = {2018},
  url       = {https://arxiv.org/abs/1807.06819}
}"""

    def __init__(self, *, vectors: int = 4, bandwidth: float = 8.0) -> None:
        super().__init__()
        self.vectors = whole_number("vectors", vectors, least=1)
        self.bandwidth = number("bandwidth", bandwidth, above=0)

    def connect(self, student: Sequence[Side], teacher: Sequence[Side], kind: Kind) -> Connection:
        """Propose maps of equal channels, layer by layer.

        Raises:
            ValueError: If a layer lies on no grid, or channels differ that are to stay as they are.
        """
        return each_of_equal_channels("SingularVectorDistillation", student, teacher, kind)

    def forward(self, student: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        """Return the mean squared difference of the kernels, summed over neighbouring layers, shape ()."""
        _check(student, target)
        count = min(self.vectors, *(maps.shape[1] for maps in target))
        pairs = [_aligned(ours, theirs, count) for ours, theirs in zip(student, target, strict=True)]
        values = []
        for (our_first, their_first), (our_second, their_second) in itertools.pairwise(pairs):
            difference = self._kernel(our_first, our_second) - self._kernel(their_first, their_second)
            values.append(difference.square().mean())
        return torch.stack(values).sum()

    def _kernel(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the kernel of each pair of entries of the vectors of two layers, (N, C1, C2, K)."""
        return (-(first[:, :, None] - second[:, None]).square() / self.bandwidth).exp()

    def extra_repr(self) -> str:
        """Show the settings in `repr`, logs and model cards."""
        return f"vectors={self.vectors}, bandwidth={self.bandwidth}"


def _aligned(student: Tensor, teacher: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the teacher's leading vectors, and the student's that are most like them, both scaled, (N, C, K) each."""
    theirs, values = _singular_vectors(teacher, count)
    ours, _ = _singular_vectors(student, min(count + _FURTHER, student.shape[1]))
    cosines = (ours.transpose(1, 2) @ theirs).detach()
    likest = cosines.abs().argmax(1, keepdim=True)
    signs = cosines.gather(1, likest).sign()
    met = ours.gather(2, likest.expand(-1, ours.shape[1], -1)) * signs
    scale = functional.normalize(values, dim=1)[:, None]
    return met * scale, theirs * scale


def _singular_vectors(maps: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the leading right singular vectors of (positions, channels), (N, C, K), and their values, (N, K).

    The vectors are those of the values that the maps have; their slope is the first-order change of an eigenvector, of
    bounded size, and the values have none.
    """
    flat = maps.flatten(2)
    products = flat @ flat.transpose(1, 2)
    squares, vectors = torch.linalg.eigh(products.detach())
    squares, vectors = squares.flip(1), vectors.flip(2)
    # Of a vector and its negative a library returns either; the kernel tells them apart.
    vectors = torch.where(vectors.sum(1, keepdim=True) < 0, -vectors, vectors)
    # v_i moves by v_j (v_j dG v_i) / (s_i - s_j), summed over the others.
    moved = vectors.transpose(1, 2) @ (products - products.detach()) @ vectors[..., :count]
    apart = squares[:, None, :count] - squares[:, :, None]
    closest = _CLOSEST * squares[:, :1, None]
    slopes = apart.sign() / torch.maximum(apart.abs(), closest).clamp(min=torch.finfo(apart.dtype).tiny)
    leading = vectors[..., :count] + vectors @ (moved * slopes)
    return leading, squares[:, :count].clamp(min=0).sqrt()


def _check(student: Sequence[Tensor], target: Sequence[Tensor]) -> None:
    shapes = [tuple(tensor.shape) for tensor in (*student, *target)]
    maps = all(len(shape) == 4 for shape in shapes)
    if len(student) < 2 or not maps or any(a.shape[1] != b.shape[1] for a, b in zip(student, target, strict=True)):
        raise ValueError(
            "SingularVectorDistillation compares two layers or more, maps (N, C, H, W) of as many channels as the "
            f"other model's; got {shapes[: len(student)]} of the student and {shapes[len(student) :]} of the teacher"
        )
