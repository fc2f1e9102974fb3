"""Stages as a recipe writes them: their terms in the order in which they stand, and what each stage says by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, create_model

from hf_abkd.recipes.annotations import MAPPING, TEXT, by_kind, chosen_by, or_nothing
from hf_abkd.recipes.derived import part_of
from hf_abkd.recipes.names import EXTENSIONS, optimizer_names
from hf_abkd.recipes.part import Part, built
from hf_abkd.recipes.term_parts import Again
from hf_abkd.recipes.training_part import stage_arguments
from hf_abkd.stages.extra_head import ExtraHead
from hf_abkd.stages.stage import Stage
from hf_abkd.teachers.route.route import TeacherRoute

#: What stands for the extra head of an earlier stage, whose weights go on where they were.
AGAIN = "again"


class _OptimizerBase(Part):
    """An optimiser of torch."""

    def check(self) -> None:
        """Make one for a number, as torch refuses impossible settings then."""
        kind, settings = self.build()
        # Some optimisers take matrices only.
        kind([torch.nn.Parameter(torch.zeros(1, 1))], **settings)

    def build(self) -> tuple[Any, dict[str, Any]]:
        """Return the class and its settings."""
        return type(self).makes, self.given()


class RouteBase(Part):
    """Weights of the teacher, one after another."""

    part: Annotated[int | None, Field(ge=0, description="The only part of the route that the stage takes.")] = None

    def build(self) -> TeacherRoute:
        """Return the route."""
        route: TeacherRoute = super().build()
        return route if self.part is None else route.only(self.part)


class StageBase(Part):
    """A stage of a run."""

    terms: Any
    teacher_terms: Any = ()
    optimizer: Any = None
    extra_head: Any = None

    def check(self) -> None:
        """Refuse what is not possible; a stage that goes on with something of earlier ones is checked with them."""
        names = [*self.terms, *self.teacher_terms, self.extra_head]
        if AGAIN not in names and not any(isinstance(built(one), Again) for one in names):
            self.build()

    def build(self, earlier: Sequence[Stage] = ()) -> Stage:
        """Return the stage.

        Args:
            earlier: The stages before it.

        Raises:
            ValueError: If it is not possible, or goes on with what no earlier stage has.
        """
        given = self.given()
        for name in ("terms", "teacher_terms"):
            if name in given:
                given[name] = [one.find(earlier) if isinstance(one, Again) else one for one in given[name]]
        if given.get("extra_head") == AGAIN:
            heads = [stage.extra_head for stage in earlier if stage.extra_head is not None]
            if not heads:
                raise ValueError("extra_head is that of an earlier stage, and none has one")
            given["extra_head"] = heads[-1]
        for name in ("arguments", "suggested"):
            if name in given:
                given[name] = getattr(self, name).given()
        return Stage(**given)

    @classmethod
    def build_each(cls, parts: Sequence[Any]) -> list[Stage]:
        """Return stages, of which the later ones may go on with what earlier ones have."""
        stages: list[Stage] = []
        for part in parts:
            stages.append(part.build(stages))
        return stages


def stage_part(known: Callable[[type], Any], term: Any) -> type[Part]:
    """Return the schema of a stage.

    Args:
        known: Returns what stands for a class of this package.
        term: The schema of a term.
    """
    terms: Any = list[term]
    head = or_nothing(by_kind({TEXT: Literal["again"], MAPPING: known(ExtraHead)}))
    given = {
        "optimizer": (or_nothing(_optimizer(known)), "An optimiser of torch.optim, in the place of training.optim."),
        "extra_head": (head, "For a teacher of other classes; again takes that of an earlier stage."),
        "arguments": (stage_arguments(), "Training arguments of this stage only."),
        "suggested": (stage_arguments(), "Likewise, where those of the run leave them open."),
    }
    fields: dict[str, Any] = {
        "terms": (terms, Field(description="The loss: a weighted sum.")),
        "teacher_terms": (terms, Field(default=(), description="Terms that train the teacher in the same steps.")),
        **{name: (kind, Field(default=None, description=text)) for name, (kind, text) in given.items()},
    }
    base = create_model("StageFields", __base__=StageBase, **fields)
    part = part_of(Stage, known, base=base, without=frozenset(base.model_fields))
    part.tags = frozenset()
    return part


def extension_value(known: Callable[[type], Any]) -> Any:
    """Return the schema of what makes further images of a batch."""
    # With a name of its own: of two parts of one name a schema for editors would number one or the other first.
    parts = {
        name: part_of(kind, known, name=f"{kind.__name__}Extension", tag=("name", name))
        for name, kind in EXTENSIONS.items()
    }
    return chosen_by("name", parts)


def _optimizer(known: Callable[[type], Any]) -> Any:
    return chosen_by(
        "name",
        {
            name: part_of(kind, known, tag=("name", name), base=_OptimizerBase, without={"params"})
            for name, kind in optimizer_names().items()
        },
    )
