"""Self-attention: relations between tokens, head by head, from the queries, keys and values of a block."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from hf_abkd.layers.connection import Connection, Kind, Side
from hf_abkd.layers.connectors import EachLayer
from hf_abkd.layers.token_forms import paired_tokens


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """Return tokens (N, L, D) by heads, (N, A, L, D / A); each head has neighbouring features.

    Raises:
        ValueError: If there are no tokens, or their features cannot be divided into so many heads.
    """
    if tokens.ndim != 3:
        raise ValueError(f"queries, keys and values are tokens (N, L, D), got {tuple(tokens.shape)}")
    if tokens.shape[2] % heads:
        possible = [number for number in range(1, tokens.shape[2] + 1) if tokens.shape[2] % number == 0]
        raise ValueError(
            f"{tokens.shape[2]} features cannot be divided into {heads} heads; possible are {possible}, of which both "
            "models need the same"
        )
    return tokens.reshape(*tokens.shape[:2], heads, tokens.shape[2] // heads).transpose(1, 2)


def log_relations(first: Tensor, second: Tensor, heads: int) -> Tensor:
    """Return the logarithm of the softmax of the scaled products of two kinds of tokens, head by head.

    Shapes: first (N, L, D), second (N, M, D); returns (N, A, L, M).
    """
    queries, keys = split_heads(first, heads), split_heads(second, heads)
    return functional.log_softmax(queries @ keys.transpose(2, 3) / math.sqrt(queries.shape[3]), dim=3)


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the divergence of the student's distributions from the teacher's, averaged over all of them, shape ().

    Shapes: student, teacher (..., M), logarithms of distributions over M.

    Raises:
        ValueError: If the shapes differ.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"relations of other tokens are compared: {tuple(student.shape[2:])} of the student and "
            f"{tuple(teacher.shape[2:])} of the teacher; give them equal grids and equally many special tokens"
        )
    total = functional.kl_div(student, teacher, log_target=True, reduction="sum")
    return total / math.prod(student.shape[:-1])


def checked_count(name: str, tensors: Sequence[Tensor], what: Sequence[str], role: str) -> Sequence[Tensor]:
    """Return the tensors of a side.

    Raises:
        ValueError: If they are more or fewer than there should be.
    """
    if len(tensors) != len(what):
        raise ValueError(f"{name} needs {', '.join(what)} of the {role}, got {len(tensors)} tensors")
    return tensors


def connect_tokens(name: str, student: Sequence[Side], teacher: Sequence[Side], kind: Kind) -> Connection:
    """Return what makes the same tokens of each pair of layers; it trains nothing.

    Args:
        name: What the objective is called.
        student: The student's tensors.
        teacher: The teacher's.
        kind: The kind of connector that is asked for.

    Raises:
        ValueError: If that is another than "auto" and "identity", or the tokens do not see the same cells.
    """
    if kind not in ("auto", "identity"):
        raise ValueError(f"{name} compares relations, for which widths need not be equal: {kind!r} connects nothing")
    pairs = [paired_tokens(one, other) for one, other in zip(student, teacher, strict=True)]
    ours: list[nn.Module] = [pair[0] for pair in pairs]
    theirs: list[nn.Module] = [pair[1] for pair in pairs]
    return Connection(EachLayer(ours), EachLayer(theirs), pairs[0][2])
