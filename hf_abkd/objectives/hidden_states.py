"""Hidden states: the tokens of a block, which the student's are to equal behind a linear map, or point along."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from hf_abkd.layers.connection import Connection, Kind, Side
from hf_abkd.layers.forms import layout_of
from hf_abkd.layers.token_forms import hidden_tokens
from hf_abkd.objectives.objective import Objective

DISTANCES = ("squared", "cosine")
REDUCTIONS = ("mean", "sum")


class HiddenStates(Objective):
    """Bring the student's hidden states to the teacher's, token by token: by their values, or by their directions.

    The squared distance is that of all features (TinyBERT), behind a linear map where the widths differ. The cosine
    distance, one minus the cosine of the angle between the two vectors of a token, asks for directions alone
    (DistilBERT).

    Requirements: one layer a side: tokens, maps, whose positions are the tokens, or vectors; no labels. The linear map
        is the connector that a term gets by itself. Special tokens (class, distillation, registers) are compared where
        both models have equally many and the same grid, and left out where they do not; a student on another grid is
        averaged or interpolated to the teacher's. Images have no padding, so that no token is masked out.
        `hidden_state_distillation(student, teacher)` pairs the blocks of two models.
    Relations: `Hint` has BatchNorm in its regressor, and compares maps; `SelfAttentionRelationDistillation` compares
        how tokens go together, and needs no map.
    Paper: Jiao et al., "TinyBERT: Distilling BERT for Natural Language Understanding", Findings of EMNLP 2020,
        https://huggingface.co/papers/1909.10351 (squared, of all layers and the embeddings), and Sanh et al.,
        "DistilBERT, a distilled version of BERT", 2019, https://huggingface.co/papers/1910.01108 (cosine, of the last)
    Shapes: student, teacher (N, L, D) or (N, D), of equal shape; returns (). The weight in both papers is 1, with the
        mean.
    Differs from TinyBERT: where widths are equal there is no linear map.

    Args:
        distance: "squared" or "cosine".
        reduction: "mean" over all features or tokens, or "sum" over those of a sample and mean over samples.
        special_tokens: Whether special tokens are compared.

    Raises:
        ValueError: If there is no such distance or reduction, or tensors are neither tokens nor vectors.

    Example:
        >>> import torch
        >>> from hf_abkd.objectives import HiddenStates
        >>> HiddenStates(distance="cosine")(torch.ones(2, 5, 8), 3 * torch.ones(2, 5, 8)).round(decimals=4).item()
        0.0
    """

    citation: ClassVar[str] = """@inproceedings{jiao2020tinybert,
  title     = {TinyBERT: Distilling BERT for Natural Language Understanding},
  author    = {Jiao, Xiaoqi and Yin, Yichun and Shang, Lifeng and Jiang, Xin and Chen, Xiao and Li, Linlin and
               Wang, Fang and Liu, Qun},
  booktitle = {Findings of the Association for Computational Linguistics: EMNLP 2020},
  year      = {2020},
  url       = {https://arxiv.org/abs/1909.10351}
}"""

    def __init__(
        self,
        *,
        distance: Literal["squared", "cosine"] = "squared",
        reduction: Literal["mean", "sum"] = "mean",
        special_tokens: bool = True,
    ) -> None:
        super().__init__()
        if distance not in DISTANCES:
            raise ValueError(f"distance must be one of {list(DISTANCES)}, got {distance!r}")
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {list(REDUCTIONS)}, got {reduction!r}")
        self.distance, self.reduction, self.special_tokens = distance, reduction, special_tokens

    def connect(self, student: Sequence[Side], teacher: Sequence[Side], kind: Kind) -> Connection | None:
        """Propose what makes the same tokens of both, and a linear map; another kind than "auto" as for any objective.

        Raises:
            ValueError: If the two cannot be connected.
        """
        if kind != "auto":
            return super().connect(student, teacher, kind)
        ours, theirs = layout_of(student[0]), layout_of(teacher[0])
        form, target_form, words = (
            (nn.Identity(), nn.Identity(), "identity")
            if ours.order == theirs.order == "NC"
            else hidden_tokens(student[0], teacher[0], special=self.special_tokens)
        )
        widths = student[0].shape[ours.channel_dim], teacher[0].shape[theirs.channel_dim]
        if widths[0] == widths[1]:
            return Connection(form, target_form, words)
        return Connection(nn.Sequential(form, nn.Linear(*widths)), target_form, f"{words}, linear")

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the distance averaged over samples, shape ()."""
        if student.ndim not in (2, 3):
            raise ValueError(
                f"HiddenStates compares tokens (N, L, D) or vectors (N, D), got {tuple(student.shape)}; a term makes "
                "tokens of a map by itself, with connector='auto'"
            )
        if self.distance == "squared":
            distances = (student - target).square()
        else:
            distances = 1 - torch.cosine_similarity(student, target, dim=-1)
        return distances.mean() if self.reduction == "mean" else distances.flatten(1).sum(1).mean()

    def extra_repr(self) -> str:
        """Show the settings in `repr`, logs and model cards."""
        return f"distance={self.distance!r}, reduction={self.reduction!r}, special_tokens={self.special_tokens}"
