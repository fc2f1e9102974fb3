"""Pairs of layers as a recipe writes them: as in the file of a plan, or as two names."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from hf_abkd.layers.connection import Kind
from hf_abkd.layers.layer_pair import LayerPair, PlannedTensor
from hf_abkd.layers.layout import Layout, Order
from hf_abkd.layers.plan import Plan
from hf_abkd.recipes.annotations import LIST, MAPPING, TEXT, by_kind
from hf_abkd.recipes.part import Part, built


class TensorPart(Part):
    """A layer, and how its tensor lies."""

    layer: Annotated[str, Field(min_length=1)]
    layout: Order | None = None
    grid: Annotated[tuple[int, int], Field(strict=False)] | None = None
    channels: Annotated[int, Field(ge=1)] | None = None
    special_tokens: int = 0

    def build(self) -> PlannedTensor:
        """Return the layer."""
        if self.layout is None:
            if self.grid is not None or self.special_tokens:
                raise ValueError("grid and special_tokens need a layout")
            return PlannedTensor(self.layer, None, self.channels)
        return PlannedTensor(self.layer, Layout(self.layout, self.grid, self.special_tokens), self.channels)


Layer: Any = by_kind({TEXT: str, MAPPING: TensorPart})


class PairPart(Part):
    """A layer of the student and one of the teacher, as in the file of a plan."""

    student: Layer
    teacher: Layer
    weight: float = 1.0
    connector: Kind = "auto"
    #: What `hf-abkd inspect --plan` found out and wrote down; not read.
    about: str = ""

    def build(self) -> LayerPair:
        """Return the pair."""
        student, teacher = (_tensor(built(side)) for side in (self.student, self.teacher))
        return LayerPair(student, teacher, self.weight, self.connector)


Names = Annotated[tuple[str, str], Field(strict=False)]
Pair: Any = by_kind({LIST: Names, MAPPING: PairPart})


class PlanPart(Part):
    """Pairs of layers, as in the file of a plan."""

    pairs: list[Pair]

    def build(self) -> Plan:
        """Return the plan."""
        return plan_of(self.pairs)


#: The pairs of `PairedTerms`: found on a batch, or given.
Pairs: Any = by_kind({TEXT: Literal["auto"], LIST: list[Pair]})


def plan_of(pairs: list[Any]) -> Plan:
    """Return the plan of pairs, each of which is a part or two names."""
    made = [
        pair.build() if isinstance(pair, PairPart) else LayerPair(PlannedTensor(pair[0]), PlannedTensor(pair[1]))
        for pair in pairs
    ]
    return Plan(made)


def _tensor(side: str | PlannedTensor) -> PlannedTensor:
    return PlannedTensor(side) if isinstance(side, str) else side
