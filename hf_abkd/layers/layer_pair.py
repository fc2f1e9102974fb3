"""Pairs of layers: a tensor of the student, one of the teacher, and what connects them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from hf_abkd.layers.connection import KINDS, Kind
from hf_abkd.layers.layout import Layout


@dataclass(frozen=True)
class PlannedTensor:
    """One side of a pair.

    Args:
        layer: The module, with or without a side; see `hf_abkd.stages.term.Term`.
        layout: How its tensor lies; None to find it out.
        channels: Its channels; None to find them out.
    """

    layer: str
    layout: Layout | None = None
    channels: int | None = None


@dataclass(frozen=True)
class LayerPair:
    """A layer of the student and the layer of the teacher that it learns from.

    Args:
        student: The student's layer.
        teacher: The teacher's.
        weight: The factor of the pair among the others.
        connector: A kind (see `hf_abkd.layers.connection.connect`) or a module of your own.
        description: The connector that was made, in words; empty before that.
        parameters: How many parameters it has; None before it was made.
        units: How many of the teacher's units are compared, and of how many; None for all of them, and before that.

    Raises:
        ValueError: If the weight is not a finite number from 0 on, or there is no such kind of connector.

    Example:
        >>> from hf_abkd.layers.layer_pair import PlannedTensor
        >>> pair = LayerPair(PlannedTensor("encoder.stages.0"), PlannedTensor("layer1.relu"), weight=0.5)
        >>> pair.connector_name
        'auto'
    """

    student: PlannedTensor
    teacher: PlannedTensor
    weight: float = 1.0
    connector: Kind | nn.Module = "auto"
    description: str = ""
    parameters: int | None = None
    units: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Check the weight and the connector."""
        if not isinstance(self.weight, (int, float)) or isinstance(self.weight, bool):
            raise ValueError(f"weight must be a number, got {self.weight!r}")
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"weight must be finite and not negative, got {self.weight}")
        if not isinstance(self.connector, nn.Module) and self.connector not in KINDS:
            raise ValueError(f"connector must be one of {list(KINDS)} or a module, got {self.connector!r}")

    @property
    def units_text(self) -> str:
        """How many of the teacher's units are compared, as the end of a line that tells of the pair; else empty."""
        return f", {self.units[0]:,} of {self.units[1]:,} units" if self.units else ""

    @property
    def connector_name(self) -> str:
        """The kind of the connector, or the class of a module."""
        return type(self.connector).__name__ if isinstance(self.connector, nn.Module) else self.connector
