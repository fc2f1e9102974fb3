"""Connections: how a tensor of the student and one of the teacher are brought to one form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from hf_abkd.layers.chosen_units import ChosenUnits
from hf_abkd.layers.connectors import AsMap, LinearHead, MapConnector, TokenConnector
from hf_abkd.layers.layout import Layout, check_layout, plain_layout

Kind = Literal["auto", "identity", "map", "tokens", "linear"]
KINDS: tuple[Kind, ...] = ("auto", "identity", "map", "tokens", "linear")


@dataclass(frozen=True)
class Side:
    """What is known of a tensor before it is connected.

    Args:
        shape: Its shape, with the batch.
        layout: How it lies; None where that was not found out.
    """

    shape: tuple[int, ...]
    layout: Layout | None = None

    @property
    def layout_or_plain(self) -> Layout:
        """How it lies: what was found out, else what its shape suggests."""
        return plain_layout(self.shape) if self.layout is None else self.layout


@dataclass(frozen=True)
class Connection:
    """How two tensors are brought to one form; with several layers a side, all those of a side together.

    Args:
        connector: What the student's tensor goes through; a sequence of tensors where a term compares several.
        target_form: What the teacher's goes through. It has nothing to train, unless the objective declares that it
            trains weights of its own.
        description: Both in a few words, for tables.

    Example:
        >>> from hf_abkd.layers.connection import connect
        >>> connection = connect((2, 8, 4, 4), (2, 16, 2, 2))
        >>> connection.description, connection.parameters
        ('1x1 convolution + BatchNorm, 4x4 to 2x2', 160)
    """

    connector: nn.Module
    target_form: nn.Module
    description: str

    @property
    def units(self) -> tuple[int, int] | None:
        """How many of the teacher's units are compared, and of how many; None for all of them."""
        form = self.target_form
        return (form.count, form.total) if isinstance(form, ChosenUnits) else None

    @property
    def parameters(self) -> int:
        """The number of trainable parameters on the student's side."""
        return sum(parameter.numel() for parameter in self.connector.parameters())


def connect(
    student_shape: Sequence[int],
    teacher_shape: Sequence[int],
    *,
    student_layout: Layout | None = None,
    teacher_layout: Layout | None = None,
    kind: Kind = "auto",
    units_per_channel: float | None = None,
) -> Connection:
    """Return the connection of a student tensor with a teacher tensor.

    By default: identity where shape and layout are equal, as in the paper; a token connector where both have the same
    tokens, special ones included; else the responses of both as maps, with a 1x1 convolution, BatchNorm and a change
    of the grid. A teacher's (N, K) is met by an extra linear head.

    Args:
        student_shape: The shape of the student's tensor, with the batch.
        teacher_shape: Likewise the teacher's.
        student_layout: How the student's tensor lies; None takes what the shape suggests.
        teacher_layout: Likewise the teacher's.
        kind: "identity", "map", "tokens" or "linear" instead of the choice by shape.
        units_per_channel: How many of the teacher's units a map or token connector leads to, at most, for each channel
            of the student (see `hf_abkd.layers.chosen_units`); None for all of them.

    Raises:
        ValueError: If the two cannot be connected, or not so.
    """
    sides = Side(tuple(student_shape), student_layout), Side(tuple(teacher_shape), teacher_layout)
    pair = _Pair.of(*sides, units_per_channel)
    make = {"identity": _identity, "map": _map, "tokens": _tokens, "linear": _linear}
    return make[_chosen(pair) if kind == "auto" else kind](pair)


@dataclass(frozen=True)
class _Pair:
    """Shapes and layouts of the two tensors."""

    student_shape: tuple[int, ...]
    teacher_shape: tuple[int, ...]
    student_layout: Layout
    teacher_layout: Layout
    units_per_channel: float | None = None

    @classmethod
    def of(cls, student: Side, teacher: Side, units_per_channel: float | None = None) -> _Pair:
        student_layout, teacher_layout = (side.layout_or_plain for side in (student, teacher))
        check_layout(student_layout, student.shape)
        check_layout(teacher_layout, teacher.shape)
        return cls(student.shape, teacher.shape, student_layout, teacher_layout, units_per_channel)

    @property
    def same_places(self) -> bool:
        return (
            self.student_layout.order == self.teacher_layout.order
            and self.student_layout.positions == self.teacher_layout.positions
        )

    @property
    def same_special_tokens(self) -> bool:
        return self.student_layout.special_tokens == self.teacher_layout.special_tokens

    @property
    def same_tokens(self) -> bool:
        are_tokens = self.student_layout.order == "NLC" and self.same_places and self.same_special_tokens
        return are_tokens and self.student_shape[1] == self.teacher_shape[1]

    @property
    def is_vector_to_classes(self) -> bool:
        return len(self.teacher_shape) == 2 and math.prod(self.student_shape[1:]) == self.student_shape[1]

    @property
    def channels(self) -> tuple[int, int]:
        return (
            self.student_shape[self.student_layout.channel_dim],
            self.teacher_shape[self.teacher_layout.channel_dim],
        )

    @property
    def widths(self) -> tuple[int, int]:
        """How many channels a connector takes, and to how many of the teacher's units it leads."""
        channels, units = self.channels
        most = math.inf if self.units_per_channel is None else math.ceil(self.units_per_channel * channels)
        return channels, int(min(most, units))

    def chosen(self, form: nn.Module) -> nn.Module:
        """Return the form of the teacher's tensor, of the units alone that the connector leads to."""
        count = self.widths[1]
        if count == self.channels[1]:
            return form
        return ChosenUnits(self.teacher_shape[1:], self.teacher_layout.channel_dim, count, form)

    def __str__(self) -> str:
        return (
            f"{self.student_shape[1:]} {self.student_layout.order} (student) with "
            f"{self.teacher_shape[1:]} {self.teacher_layout.order} (teacher)"
        )


def _chosen(pair: _Pair) -> Kind:
    """Return the kind of connection that suits two tensors."""
    if pair.student_shape == pair.teacher_shape and pair.same_places and pair.same_special_tokens:
        return "identity"
    if pair.same_tokens:
        return "tokens"
    return "linear" if pair.is_vector_to_classes else "map"


def _identity(pair: _Pair) -> Connection:
    if pair.student_shape == pair.teacher_shape and pair.same_places:
        return Connection(nn.Identity(), nn.Identity(), "identity")
    ours, theirs = pair.student_layout, pair.teacher_layout
    if ours.grid is not None and ours.grid == theirs.grid and pair.channels[0] == pair.channels[1]:
        return Connection(AsMap(ours), AsMap(theirs), "identity")
    raise ValueError(f"identity cannot connect {pair}: grid and channels differ")


def _tokens(pair: _Pair) -> Connection:
    if not pair.same_tokens:
        raise ValueError(f"a token connector cannot connect {pair}: it needs the same tokens; use 'map'")
    return Connection(TokenConnector(*pair.widths), pair.chosen(nn.Identity()), "linear + BatchNorm")


def _linear(pair: _Pair) -> Connection:
    if not pair.is_vector_to_classes:
        raise ValueError(f"a linear head cannot connect {pair}: it maps a vector (N, D) to the teacher's (N, K)")
    return Connection(LinearHead(pair.student_shape[1], pair.teacher_shape[1]), nn.Identity(), "linear head")


def _map(pair: _Pair) -> Connection:
    ours, theirs = pair.student_layout, pair.teacher_layout
    if ours.grid is None or theirs.grid is None:
        lost = [who for who, layout in (("student", ours), ("teacher", theirs)) if layout.grid is None]
        raise ValueError(
            f"no connector brings together {pair}: the {' and the '.join(lost)} tensor lies on no grid over the image. "
            "Pair other layers, or give the term your own module as `connector`."
        )
    resized = ours.grid != theirs.grid
    connector = MapConnector(*pair.widths, layout=ours, grid=theirs.grid if resized else None)
    resize = f", {ours.grid[0]}x{ours.grid[1]} to {theirs.grid[0]}x{theirs.grid[1]}" if resized else ""
    target_form = pair.chosen(nn.Identity() if theirs.order == "NCHW" else AsMap(theirs))
    return Connection(connector, target_form, f"1x1 convolution + BatchNorm{resize}")
