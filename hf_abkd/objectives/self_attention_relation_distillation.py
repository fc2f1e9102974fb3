"""Self-attention relation distillation: how the queries, keys and values of a block go together (MiniLM v2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from hf_abkd.layers.connection import Connection, Kind, Side
from hf_abkd.objectives.objective import Objective
from hf_abkd.objectives.self_attention import checked_count, connect_tokens, divergence, log_relations
from hf_abkd.settings import whole_number

_WHAT = ("queries", "keys", "values")


class SelfAttentionRelationDistillation(Objective):
    """Relate tokens to each other as the teacher does: by their queries, by their keys, and by their values.

    The queries of all heads together are cut into as many relation heads for both models, and so are keys and values.
    The relation of a head is the softmax of the products of its vectors with each other over the root of their width.
    The value is the sum over queries, keys and values of the divergence of the student's relations from the teacher's,
    averaged over samples, relation heads and tokens.

    Requirements: three layers a side, whose outputs are the queries, keys and values of one block, of two transformers
        on the same grid of patches; heads and widths may be any, as long as the relation heads divide the widths; no
        labels. Images have no padding, so that no token is masked out. Special tokens (class, distillation, registers)
        are compared where both models have equally many, and left out where they do not. `minilm(student, teacher)`
        names the layers.
    Relations: `DeepSelfAttentionDistillation` is the first version, on attention itself; `SimilarityPreserving` relates
        samples to each other, and this one the tokens of a sample.
    Paper: Wang et al., "MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained
        Transformers", Findings of ACL 2021, https://huggingface.co/papers/2012.15828 (48 relation heads for teachers of
        the base size, 64 for large ones; all three relations with the weight 1)
    Shapes: student, teacher each queries, keys and values, (N, L, D) with widths of its own; returns (). In memory it
        holds six matrices of N * relation_heads * L * L numbers, and their gradients: of 64 images of 197 tokens and
        with 48 relation heads each takes half a gigabyte.
    Differs from the paper: nothing.

    Args:
        relation_heads: Into how many heads queries, keys and values are cut.

    Raises:
        ValueError: If `relation_heads` is below 1, a width is no multiple of it, or the tokens of the two sides differ.

    Example:
        >>> import torch
        >>> from hf_abkd.objectives import SelfAttentionRelationDistillation
        >>> parts = [torch.rand(2, 5, 8) for _ in range(3)]
        >>> round(SelfAttentionRelationDistillation(relation_heads=4)(parts, parts).item(), 6)
        0.0
    """

    layers: ClassVar[int | None] = 3
    equal_shapes: ClassVar[bool] = False
    pairs = "last"
    citation: ClassVar[str] = """@inproceedings{wang2021minilmv2,
  title     = {MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained Transformers},
  author    = {Wang, Wenhui and Bao, Hangbo and Huang, Shaohan and Dong, Li and Wei, Furu},
  booktitle = {Findings of the Association for Computational Linguistics: ACL-IJCNLP 2021},
  year      = {2021},
  url       = {https://arxiv.org/abs/2012.15828}
}"""

    def __init__(self, *, relation_heads: int = 48) -> None:
        super().__init__()
        self.relation_heads = whole_number("relation_heads", relation_heads, least=1)

    def connect(self, student: Sequence[Side], teacher: Sequence[Side], kind: Kind) -> Connection:
        """Propose what makes the same tokens of both sides; it trains nothing.

        Raises:
            ValueError: If a layer does not hold the tokens of whole images, or the grids of the two differ.
        """
        return connect_tokens(type(self).__name__, student, teacher, kind)

    def forward(self, student: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        """Return the sum of the three divergences, shape ()."""
        name, heads = type(self).__name__, self.relation_heads
        ours, theirs = checked_count(name, student, _WHAT, "student"), checked_count(name, target, _WHAT, "teacher")
        values = [
            divergence(log_relations(one, one, heads), log_relations(other, other, heads))
            for one, other in zip(ours, theirs, strict=True)
        ]
        return torch.stack(values).sum()

    def extra_repr(self) -> str:
        """Show the settings in `repr`, logs and model cards."""
        return f"relation_heads={self.relation_heads}"
