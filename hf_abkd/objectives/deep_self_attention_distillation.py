"""Deep self-attention distillation: the attention of a block, and how its values go together (MiniLM)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from hf_abkd.layers.connection import Connection, Kind, Side
from hf_abkd.objectives.objective import Objective
from hf_abkd.objectives.self_attention import checked_count, connect_tokens, divergence, log_relations
from hf_abkd.settings import whole_number

_WHAT = ("queries", "keys", "values")


class DeepSelfAttentionDistillation(Objective):
    """Attend where the teacher's last block attends, and relate the values of tokens to each other as it does.

    Of each head, the attention is the softmax of the products of queries with keys over the root of their width, and
    the value relation that of the values with each other. The value is the divergence of the student's attention from
    the teacher's plus that of the value relations, each averaged over samples, heads and tokens.

    Requirements: three layers a side, whose outputs are the queries, keys and values of one block, of two transformers
        with equally many heads, of any width, on the same grid of patches; no labels. Attention itself is not
        captured: fast kernels do not return it. Images have no padding, so that no token is masked out. Special tokens
        (class, distillation, registers) are compared where both models have equally many, and left out of queries and
        keys where they do not. `minilm(student, teacher, version=1)` names the layers.
    Relations: `SelfAttentionRelationDistillation` needs no equal heads; `AttentionTransfer` is about maps of CNNs.
    Paper: Wang et al., "MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained
        Transformers", NeurIPS 2020, https://huggingface.co/papers/2002.10957
    Shapes: student, teacher each queries, keys and values, (N, L, D) with widths of its own; returns (). In memory it
        holds four matrices of N * heads * L * L numbers, and their gradients.
    Differs from the paper: nothing in the formula, of which both parts have the weight 1. Where a model changes
        attention otherwise (a bias for relative positions, rotated queries), what is compared is the attention without
        that; `minilm` refuses such models.

    Args:
        heads: How many heads both models have; 12 is that of models of the base size.

    Raises:
        ValueError: If `heads` is below 1, a width is no multiple of it, or the tokens of the two sides differ.

    Example:
        >>> import torch
        >>> from hf_abkd.objectives import DeepSelfAttentionDistillation
        >>> parts = [torch.rand(2, 5, 8) for _ in range(3)]
        >>> round(DeepSelfAttentionDistillation(heads=2)(parts, parts).item(), 6)
        0.0
    """

    layers: ClassVar[int | None] = 3
    equal_shapes: ClassVar[bool] = False
    pairs = "last"
    citation: ClassVar[str] = """@inproceedings{wang2020minilm,
  title     = {MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers},
  author    = {Wang, Wenhui and Wei, Furu and Dong, Li and Bao, Hangbo and Yang, Nan and Zhou, Ming},
  booktitle = {Advances in Neural Information Processing Systems},
  volume    = {33},
  year      = {2020},
  url       = {https://arxiv.org/abs/2002.10957}
}"""

    def __init__(self, *, heads: int = 12) -> None:
        super().__init__()
        self.heads = whole_number("heads", heads, least=1)

    def connect(self, student: Sequence[Side], teacher: Sequence[Side], kind: Kind) -> Connection:
        """Propose what makes the same tokens of both sides; it trains nothing.

        Raises:
            ValueError: If a layer does not hold the tokens of whole images, or the grids of the two differ.
        """
        return connect_tokens(type(self).__name__, student, teacher, kind)

    def forward(self, student: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        """Return the two divergences together, shape ()."""
        name = type(self).__name__
        queries, keys, values = checked_count(name, student, _WHAT, "student")
        their_queries, their_keys, their_values = checked_count(name, target, _WHAT, "teacher")
        attention = divergence(
            log_relations(queries, keys, self.heads), log_relations(their_queries, their_keys, self.heads)
        )
        relation = divergence(
            log_relations(values, values, self.heads), log_relations(their_values, their_values, self.heads)
        )
        return attention + relation

    def extra_repr(self) -> str:
        """Show the settings in `repr`, logs and model cards."""
        return f"heads={self.heads}"
