"""Terms as a recipe writes them: an objective with its settings, and beside these what else a term says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Union

from pydantic import Discriminator, Field, Tag

from hf_abkd.objectives import OBJECTIVES
from hf_abkd.recipes.annotations import chosen_by
from hf_abkd.recipes.derived import part_of
from hf_abkd.recipes.part import Part, built
from hf_abkd.recipes.plan_parts import Pairs, plan_of
from hf_abkd.stages.stage import Stage
from hf_abkd.stages.term import PairedTerms, Term, pairs_layers
from hf_abkd.wording import listed

AnyTerm = Term | PairedTerms


@dataclass(frozen=True)
class Again:
    """A term of an earlier stage, whose connector goes on where it was.

    Args:
        name: The name of the term.
    """

    name: str

    def find(self, earlier: Sequence[Stage]) -> AnyTerm:
        """Return the term, of the closest stage that has one of the name.

        Raises:
            ValueError: If none has.
        """
        for stage in reversed(earlier):
            for term in (*stage.terms, *stage.teacher_terms):
                if term.name == self.name:
                    return term
        there = [term.name for stage in earlier for term in (*stage.terms, *stage.teacher_terms)]
        raise ValueError(
            f"again: {self.name} is no term of an earlier stage; theirs are {listed(dict.fromkeys(there), 8)}"
        )


class AgainPart(Part):
    """A term of an earlier stage once more: the same connector, going on where it was."""

    again: Annotated[str, Field(min_length=1, description="The name of the term.")]

    def build(self) -> Again:
        """Return what stands for the term until the earlier stages are known."""
        return Again(self.again)


class _TermBase(Part):
    """What a term says beside the settings of its objective."""

    beside: ClassVar[frozenset[str]] = frozenset()

    def build(self) -> Term:
        """Return the term."""
        given = {name: built(getattr(self, name)) for name in self.model_fields_set & self.beside}
        return Term(super().build(), **given)


class _PairedBase(Part):
    """One term for every pair of layers."""

    pairs: Annotated[Pairs, Field(description="auto, or pairs of layers as in the file of a plan.")]
    weight: Any = 1.0

    def build(self) -> PairedTerms:
        """Return the terms."""
        plan = None if self.pairs == "auto" else plan_of(self.pairs)
        return PairedTerms(super().build(), plan=plan, weight=built(self.weight))


def objective_value(known: Callable[[type], Any]) -> Any:
    """Return the schema of an objective by itself."""
    parts = {name: part_of(kind, known, tag=("objective", name)) for name, kind in OBJECTIVES.items()}
    return chosen_by("objective", parts)


def term_value(known: Callable[[type], Any]) -> Any:
    """Return the schema of what a stage lists: a term, one for every pair of layers, or one of an earlier stage."""
    beside = part_of(Term, known, name="TermFields", without={"objective", "_"}, base=_TermBase)
    beside.beside = frozenset(beside.model_fields)  # type: ignore[attr-defined]
    weight = beside.model_fields["weight"]
    paired = type("PairedFields", (_PairedBase,), {"__annotations__": {"weight": weight.annotation}, "weight": weight})
    parts: dict[str, type[Part]] = {"<again>": AgainPart}
    for name, kind in OBJECTIVES.items():
        tag = ("objective", name)
        parts[f"<objective={name}>"] = part_of(kind, known, name=f"{kind.__name__}Term", tag=tag, base=beside)
        if pairs_layers(kind):
            parts[f"<objective={name}, pairs>"] = part_of(
                kind, known, name=f"{kind.__name__}OfPairs", tag=tag, base=paired
            )
    tagged = tuple(Annotated[part, Tag(tag)] for tag, part in parts.items())
    return Annotated[Union[tagged], Discriminator(_tag)]  # noqa: UP007


def _tag(value: Any) -> str:
    """Return which kind of term a value is."""
    given = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    if "again" in given:
        return "<again>"
    return f"<objective={given.get('objective')}{', pairs' if 'pairs' in given else ''}>"
