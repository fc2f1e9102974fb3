"""Sections of a recipe, put together: by which method or stages, on which models and images, it trains."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

from pydantic import Field, create_model
from torch import nn

from hf_abkd.methods import METHODS
from hf_abkd.recipes.annotations import LIST, TEXT, by_kind, chosen_by, or_nothing
from hf_abkd.recipes.derived import models_read, part_of
from hf_abkd.recipes.image_parts import data_part
from hf_abkd.recipes.model_parts import StudentPart, TeacherPart
from hf_abkd.recipes.part import Part, built
from hf_abkd.recipes.training_part import training_part
from hf_abkd.recipes.values import augmentation_value, known
from hf_abkd.stages.stage import Stage

#: The method that has no teacher.
ALONE = "alone"


class _RecipeBase(Part):
    """What runs, on what, by which method or stages."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Which models the stages are made for: "student", "teacher"."""
        return ()

    def check(self) -> None:
        """Make the stages, which are refused if they are not possible."""
        if not self.reads:
            self.stages_of_run({})

    def stages_of_run(self, models: Mapping[str, nn.Module]) -> list[Stage] | None:
        """Return the stages; None if the student learns alone.

        Args:
            models: The models that `reads` names.
        """
        raise NotImplementedError


class _MethodBase(_RecipeBase):
    """A method, and its settings."""

    method: str
    settings: Any = None

    @property
    def reads(self) -> tuple[str, ...]:
        """Which models the method finds its layers in."""
        return () if self.method == ALONE else models_read(METHODS[self.method])

    def stages_of_run(self, models: Mapping[str, nn.Module]) -> list[Stage] | None:
        """Return the stages of the method."""
        if self.method == ALONE:
            return None
        return METHODS[self.method](**models, **({} if self.settings is None else self.settings.given()))


class _StagesBase(_RecipeBase):
    """Stages, one after another."""

    stages: Any

    def stages_of_run(self, models: Mapping[str, nn.Module]) -> list[Stage] | None:
        """Return the stages, of which later ones may go on with what earlier ones have."""
        stages: list[Stage] = built(self.stages)
        return stages


class _ForModels(Part):
    """Settings of a method that is given models: by themselves they make nothing."""

    def check(self) -> None:
        """Leave it to the run, which has the models."""


@cache
def recipe_parts() -> Mapping[str, type[Part]]:
    """Return the schema of a recipe of each method, and under the name of nothing that of one with stages."""
    stage = known(Stage)
    parts = {
        name: _recipe(name, _MethodBase, method=(Literal[name], ...), settings=_settings_of(name))
        for name in [ALONE, *METHODS]
    }
    stages = (list[stage], Field(min_length=1, description="What is trained, one stage after another."))  # type: ignore[valid-type]
    return {**parts, "": _recipe("stages", _StagesBase, stages=stages)}


@cache
def recipe_value() -> Any:
    """Return the schema of any recipe."""
    return chosen_by("method", {str(name or None): part for name, part in recipe_parts().items()})


def _recipe(name: str, base: type[Part], **what: Any) -> type[Part]:
    fields: dict[str, Any] = {
        "description": (str, Field(default="", description="What the recipe is for, in a line.")),
        "teacher": (TeacherPart | None, Field(default=None, description="Who teaches.")),
        "student": (StudentPart | None, Field(default=None, description="Who learns.")),
        "data": (or_nothing(data_part()), Field(default=None, description="Which images.")),
        "augmentation": (
            _augmentations(),
            Field(
                default="auto",
                description="What changes the images of each batch, in this order. auto shifts them for a student from "
                "random weights; an empty list changes nothing.",
            ),
        ),
        **what,
        "training": (
            or_nothing(training_part()),
            Field(default=None, description="Training arguments, those of DistillationArguments."),
        ),
    }
    return create_model(f"Recipe_{name}", __base__=base, **fields)


def _augmentations() -> Any:
    return by_kind({TEXT: Literal["auto"], LIST: list[augmentation_value()]})  # type: ignore[misc]


def _settings_of(method: str) -> tuple[Any, Any]:
    """Return the type of the settings of a method, and their field; they may be left out if each has a default."""
    if method == ALONE:
        return None, Field(default=None, description="There are none.")
    models = models_read(METHODS[method])
    base = _ForModels if models else Part
    settings = part_of(METHODS[method], known, name=f"Settings_{method}", base=base, without=frozenset(models))
    text = f"The settings of {method}; those left out have its defaults."
    if any(field.is_required() for field in settings.model_fields.values()):
        return settings, Field(description=text)
    return or_nothing(settings), Field(default=None, description=text)
