"""Attention distillation: where in the image the class token of a block looks (AttnDistill)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from hf_abkd.layers.connection import Connection, Kind, Side
from hf_abkd.layers.connectors import EachLayer
from hf_abkd.layers.layout import Layout
from hf_abkd.layers.token_forms import as_tokens, token_layout
from hf_abkd.objectives.objective import Objective
from hf_abkd.objectives.self_attention import checked_count, log_relations
from hf_abkd.settings import number, whole_number

_WHAT = ("queries", "keys")
# Interpolation makes probabilities of 0 and below; the public code's least one.
_LEAST = 1e-5


class AttentionDistillation(Objective):
    """Have the class token of the student's last block look where that of the teacher's looks.

    The attention of the class token to all tokens is, in each head, a distribution. The value is the divergence of the
    student's from the teacher's, summed over heads and averaged over samples. Where the teacher has another grid, its
    attention to the patches is interpolated to the student's, and scaled to what the class token leaves to them. Where
    it has other heads, those of each model are put together first: the sum of their logarithms over a temperature, of
    which the softmax is taken.

    Requirements: two layers a side, whose outputs are the queries and keys of one block, of two transformers with a
        class token as their first; no labels. Attention itself is not captured: fast kernels do not return it. Images
        have no padding, so that no token is masked out. Further special tokens (distillation, registers) are compared
        where both models have equally many and the same grid; otherwise they are left out of the keys.
        `attention_distillation(student, teacher)` names the layers and the heads.
    Relations: `DeepSelfAttentionDistillation` compares the attention of all tokens, and needs equal grids and heads;
        `AttentionTransfer` says of maps of CNNs where they respond.
    Paper: Wang et al., "Attention Distillation: self-supervised vision transformer students need more guidance", BMVC
        2022, https://huggingface.co/papers/2210.00944
    Shapes: student, teacher each queries and keys, (N, L, D) with widths of its own, the class token first; returns ().
        In memory it holds a row of N * heads * L numbers of each side, and not the whole attention. The published
        weight is 0.1.
    Differs from the authors' code: nothing but the limits 1e-5 and 0.996 that it puts on all probabilities for half
        precision; here the least is that of interpolated ones alone. The formula is that of the code.

    Args:
        heads: How many heads the student has.
        teacher_heads: How many the teacher has; None is as many.
        temperature: What the sum of logarithms is divided by where the two have other heads.

    Raises:
        ValueError: If a setting is out of range, a width is no multiple of its heads, or a model has no class token.

    Example:
        >>> import torch
        >>> from hf_abkd.objectives import AttentionDistillation
        >>> parts = [torch.rand(2, 5, 8) for _ in range(2)]
        >>> round(AttentionDistillation(heads=2)(parts, parts).item(), 6)
        0.0
    """

    layers: ClassVar[int | None] = 2
    equal_shapes: ClassVar[bool] = False
    pairs = "last"
    published_weight: float = 0.1
    citation: ClassVar[str] = """@inproceedings{wang2022attention,
  title     = {Attention Distillation: self-supervised vision transformer students need more guidance},
  author    = {Wang, Kai and Yang, Fei and van de Weijer, Joost},
  booktitle = {British Machine Vision Conference},
  year      = {2022},
  url       = {https://arxiv.org/abs/2210.00944}
}"""

    def __init__(self, *, heads: int = 12, teacher_heads: int | None = None, temperature: float = 10.0) -> None:
        super().__init__()
        self.heads = whole_number("heads", heads, least=1)
        self.teacher_heads = heads if teacher_heads is None else whole_number("teacher_heads", teacher_heads, least=1)
        self.temperature = number("temperature", temperature, above=0)
        #: The grids of student and teacher where they differ; known once the two are connected.
        self.grids: tuple[tuple[int, int], tuple[int, int]] | None = None

    def connect(self, student: Sequence[Side], teacher: Sequence[Side], kind: Kind) -> Connection:
        """Propose what makes tokens of both sides, the class token first; it trains nothing.

        Raises:
            ValueError: If another kind is asked for, or a layer does not hold a class token and a grid of patches.
        """
        if kind not in ("auto", "identity"):
            raise ValueError(f"AttentionDistillation compares attention, to which {kind!r} connects nothing")
        # Queries first; keys may lie on a coarser grid, on which the attention is then.
        ours, theirs = _with_class_token(student, "student"), _with_class_token(teacher, "teacher")
        same = ours[1].grid == theirs[1].grid
        kept = ours[1].special_tokens if same and ours[1].special_tokens == theirs[1].special_tokens else 1
        if not same and ours[1].grid is not None and theirs[1].grid is not None:
            self.grids = (ours[1].grid, theirs[1].grid)
        form, target_form = (EachLayer([as_tokens(one, special=kept) for one in side]) for side in (ours, theirs))
        return Connection(form, target_form, "tokens" if same else "tokens, attention interpolated")

    def forward(self, student: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        """Return the divergence averaged over samples, shape ()."""
        ours = _class_attention(checked_count("AttentionDistillation", student, _WHAT, "student"), self.heads)
        theirs = _class_attention(checked_count("AttentionDistillation", target, _WHAT, "teacher"), self.teacher_heads)
        if self.grids is not None:
            theirs = _interpolated(theirs, *self.grids)
        if ours.shape[2] != theirs.shape[2]:
            raise ValueError(
                f"AttentionDistillation compares attention to {ours.shape[2]} tokens with that to {theirs.shape[2]}; a "
                "term that knows how both lie interpolates it"
            )
        if self.heads != self.teacher_heads:
            ours, theirs = (
                functional.log_softmax(rows.sum(1, keepdim=True) / self.temperature, dim=2) for rows in (ours, theirs)
            )
        return functional.kl_div(ours, theirs, log_target=True, reduction="none").flatten(1).sum(1).mean()

    def extra_repr(self) -> str:
        """Show the settings in `repr`, logs and model cards."""
        return f"heads={self.heads}, teacher_heads={self.teacher_heads}, temperature={self.temperature}"


def _with_class_token(sides: Sequence[Side], role: str) -> list[Layout]:
    """Return how the layers of a side lie.

    Raises:
        ValueError: If they have no special token in front of a grid.
    """
    layouts = [token_layout(side, role) for side in sides]
    for side, layout in zip(sides, layouts, strict=True):
        if layout.grid is None or not layout.special_tokens:
            raise ValueError(
                f"the {role}'s tensor of shape {side.shape} has no class token in front of a grid of patches, whose "
                "attention is compared; relations of all tokens are compared by SelfAttentionRelationDistillation"
            )
    return layouts


def _class_attention(parts: Sequence[Tensor], heads: int) -> Tensor:
    """Return the logarithm of the attention of the class token to all tokens, (N, A, L)."""
    queries, keys = parts
    return log_relations(queries[:, :1], keys, heads).squeeze(2)


def _interpolated(rows: Tensor, to: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Return the logarithm of attention on another grid, (N, A, 1 + H * W); the class token keeps its share.

    Args:
        rows: The logarithm of attention to the class token and to patches, (N, A, L).
        to: The rows and columns that are wanted.
        grid: Those of the patches.
    """
    probabilities = rows.exp()
    first, patches = probabilities[..., :1], probabilities[..., 1:].reshape(*rows.shape[:2], *grid)
    other = functional.interpolate(patches, size=to, mode="bicubic", align_corners=False).flatten(2).clamp(min=_LEAST)
    together = torch.cat([first, other * ((1 - first) / other.sum(2, keepdim=True))], dim=2).clamp(min=_LEAST**2)
    return (together / together.sum(2, keepdim=True)).log()
