"""Sections of a recipe: its models, its images, what changes them, its method or stages, and its training arguments."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field, create_model
from torch import nn

from hf_abkd.data.arguments import DataArguments
from hf_abkd.methods import METHODS, DeepInversion, synthesize
from hf_abkd.models.smaller.factors import Factors
from hf_abkd.recipes.annotations import LIST, TEXT, by_kind, chosen_by, or_nothing
from hf_abkd.recipes.derived import argument_texts, models_read, part_of
from hf_abkd.recipes.part import Part, built
from hf_abkd.recipes.training_part import training_part
from hf_abkd.recipes.values import augmentation_value, known
from hf_abkd.stages.stage import Stage
from hf_abkd.teachers.mean_source import MeanTeacher

#: The method that has no teacher.
ALONE = "alone"
Text = Annotated[str, Field(min_length=1)]
Mean: Any = or_nothing(part_of(MeanTeacher, known))
FromTeacher: Any = or_nothing(part_of(Factors, known, name="FromTeacher"))


class TeacherPart(Part):
    """Who teaches: a model, or the mean of the student itself."""

    model: Annotated[
        Text | None, Field(description="A model or a cache of its answers: a Hub id or a local folder.")
    ] = None
    revision: Annotated[Text, Field(description="Branch, tag or commit on the Hub.")] = "main"
    image_processor: Annotated[Text | None, Field(description="Its image processor, if not stored with it.")] = None
    mean: Annotated[
        Mean,
        Field(description="The moving average of the student's own weights, in the place of a model."),
    ] = None

    def check(self) -> None:
        """Refuse a teacher that is two things, or a part of one.

        Raises:
            ValueError: If it is.
        """
        if self.mean is not None and self.model_fields_set - {"mean"}:
            raise ValueError("mean is the student's own average: leave model, revision and image_processor out")
        if self.mean is None and self.model is None:
            raise ValueError("say who teaches: a model, or mean: {} for the average of the student itself")


class StudentPart(Part):
    """Who learns."""

    model: Annotated[
        Text | None,
        Field(description="A Hub id, a local folder with weights or, for random weights, with a config alone."),
    ] = None
    from_teacher: Annotated[
        FromTeacher,
        Field(description="Which share of the teacher's blocks and channels it is made of, in the place of a model."),
    ] = None
    revision: Annotated[Text, Field(description="Branch, tag or commit on the Hub.")] = "main"
    image_processor: Annotated[Text | None, Field(description="The image processor. Default: its own.")] = None
    ignore_mismatched_sizes: Annotated[
        bool, Field(description="Replace its head if that has another number of classes.")
    ] = False

    def check(self) -> None:
        """Refuse a student that is two things, a part of one, or its teacher.

        Raises:
            ValueError: If it is.
        """
        if self.from_teacher is None:
            if self.model is None:
                raise ValueError("say who learns: a model, or from_teacher: {depth: 0.5, width: 0.5}")
            return
        if self.model_fields_set - {"from_teacher", "image_processor"}:
            raise ValueError(
                "from_teacher makes the student of the teacher: leave model, revision and ignore_mismatched_sizes out"
            )
        built(self.from_teacher).check_smaller()


class _SynthesizeBase(Part):
    """Images that are made out of the teacher before training, in the place of real ones."""

    preset: Annotated[
        Literal["cifar10", "imagenet"], Field(description="The settings to begin with, the paper's for one data set.")
    ] = "cifar10"
    settings: Any = None

    def check(self) -> None:
        """Refuse settings that are not possible."""
        self.deep_inversion()

    def build(self) -> dict[str, Any]:
        """Return the arguments of `synthesize` beside the teacher, its processor and the folder."""
        return {**self.settings_of_call(), "settings": self.deep_inversion()}

    def settings_of_call(self) -> dict[str, Any]:
        """Return what was given beside the settings of DeepInversion."""
        given = self.model_fields_set - {"preset", "settings"}
        return {name: built(getattr(self, name)) for name in given}

    def deep_inversion(self) -> DeepInversion:
        """Return the preset with what changes in it."""
        presets = {"cifar10": DeepInversion.cifar10, "imagenet": DeepInversion.imagenet}
        changes = {} if self.settings is None else self.settings.given()
        return presets[self.preset](**changes)


@cache
def data_part() -> type[Part]:
    """Return the schema of the images."""
    target = part_of(DataArguments, known, name="TargetImages")
    base = create_model(
        "DataFields",
        __base__=Part,
        synthesize=(
            or_nothing(_synthesize_part()),
            Field(default=None, description="Make the training images out of the teacher."),
        ),
        target_domain=(
            or_nothing(target),
            Field(default=None, description="Images of a domain to adapt to; their labels are read to report only."),
        ),
    )
    return part_of(DataArguments, known, name="Images", base=base)


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


def _synthesize_part() -> type[Part]:
    texts = argument_texts(synthesize)
    given = {"num_images": (int, ...), "batch_size": (int, 256), "classes": (list[int | str] | None, None)}
    given |= {"seed": (int, 0), "previews": (int, 64)}
    fields: dict[str, Any] = {
        name: (kind, Field(default=default, description=texts[name])) for name, (kind, default) in given.items()
    }
    settings = (or_nothing(known(DeepInversion)), Field(default=None, description=texts["settings"]))
    return create_model("Synthesize", __base__=_SynthesizeBase, settings=settings, **fields)
