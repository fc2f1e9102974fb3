"""Recipes: a distillation run as a file, and as an object of Python."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from torch import nn

from hf_abkd.data.augment import Augmentation, Compose
from hf_abkd.files import write_text
from hf_abkd.methods import METHODS
from hf_abkd.recipes import mistakes, writing
from hf_abkd.recipes.derived import is_plain, parameters_of
from hf_abkd.recipes.document import Document, parsed, read_document
from hf_abkd.recipes.overrides import overridden
from hf_abkd.recipes.part import built
from hf_abkd.recipes.sections import ALONE, recipe_value
from hf_abkd.recipes.text import to_yaml
from hf_abkd.recipes.trust import check_trust
from hf_abkd.stages.arguments import DistillationArguments
from hf_abkd.stages.stage import Stage
from hf_abkd.teachers.mean_source import MeanTeacher
from hf_abkd.wording import listed

#: What a run keeps its recipe as, in its output folder.
RECIPE_NAME = "recipe.yaml"


class Recipe:
    """What a run is made of: models, images, a method or stages, and training arguments; checked as a whole.

    Nothing is loaded or downloaded for that. Two recipes are equal if they say the same.

    Args:
        content: What a file would hold: mappings with text as keys, lists, text, numbers, truth values and None.
        origin: What to call it in errors.

    Raises:
        ValueError: If a key is unknown, or a value of another type or not possible; the message has the places, what
            stands there and what would be right.

    Example:
        >>> recipe = Recipe({"method": "knowledge_distillation", "settings": {"temperature": 2.0}})
        >>> [stage] = recipe.stages()
        >>> stage.terms[0].objective.temperature
        2.0
        >>> Recipe({"method": "minlm"})
        Traceback (most recent call last):
        ...
        ValueError: the recipe: there is no method 'minlm'; did you mean minilm?
    """

    def __new__(cls, *_: object, **settings: object) -> Recipe:
        """Tell who means what the name stood for until version 0.5.

        Raises:
            TypeError: If a setting of `CacheSettings` is given.
        """
        if set(settings) - {"content", "origin"}:
            raise TypeError(
                f"a Recipe has no {listed(settings)}: it describes a run; what a cache is written with is "
                "`hf_abkd.CacheSettings` now"
            )
        return super().__new__(cls)

    def __init__(self, content: Mapping[str, Any], *, origin: str = "the recipe") -> None:
        self._take(Document(copy.deepcopy(dict(content)), {}, origin))

    def _take(self, document: Document) -> None:
        """Check what a document holds, and keep it with what was made of it."""
        if not isinstance(document.data, dict):
            raise ValueError(f"{document.origin} holds no keys: a recipe has a method or stages, and what they run on")
        try:
            self._part = _adapter().validate_python(document.data)
        except ValidationError as error:
            raise ValueError(mistakes.told(error, document)) from None
        self._content, self._origin = document.data, document.origin

    @classmethod
    def load(cls, path: str | Path, *, overrides: Sequence[str] = ()) -> Recipe:
        """Read a recipe from a YAML or JSON file. Nothing in it is executed.

        Args:
            path: The file.
            overrides: What is to be otherwise, as on the command line: `"training.learning_rate=1e-3"`. What a file
                may not say, as it runs code, deletes or uploads, can be said here.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no recipe; the message has the lines.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no recipe {path}; `hf-abkd recipes` lists those that come along")
        return cls.of_document(read_document(path), overrides=overrides)

    @classmethod
    def from_yaml(cls, text: str, *, origin: str = "the recipe") -> Recipe:
        """Read a recipe from text, as `load` does from a file."""
        return cls.of_document(parsed(text, origin=origin))

    @classmethod
    def of_document(cls, document: Document, *, overrides: Sequence[str] = ()) -> Recipe:
        """Return the recipe that a document holds, as `load` does of a file; errors name its lines."""
        check_trust(document)
        recipe = cls.__new__(cls)
        recipe._take(overridden(document, overrides))
        return recipe

    @classmethod
    def from_stages(cls, stages: Sequence[Stage] | None, **sections: Any) -> Recipe:
        """Return the recipe of stages of Python.

        Args:
            stages: The stages; None for a student that learns alone.
            sections: The other sections of the recipe: `teacher={"model": "folder"}`, `training={"seed": 1}`.

        Raises:
            ValueError: If something in the stages cannot be written, as a module of your own, or a section is wrong.

        Example:
            >>> stages = activation_boundary([("layer1", "layer2")], margin=2.0)
            >>> recipe = Recipe.from_stages(stages)
            >>> recipe.stages()[0].terms == stages[0].terms
            True
        """
        what = {"method": ALONE} if stages is None else {"stages": writing.stages_data(stages)}
        return cls({**writing.plain(sections), **what})

    @classmethod
    def from_method(cls, method: str, settings: Mapping[str, Any] | None = None, **sections: Any) -> Recipe:
        """Return the recipe of a method.

        Args:
            method: Its name, as `"activation_boundary"`.
            settings: Its settings, as the function of that name takes them.
            sections: The other sections of the recipe: `teacher={"model": "folder"}`, `training={"seed": 1}`.

        Raises:
            ValueError: If there is no such method, or a setting is not possible or cannot be written.

        Example:
            >>> falling = schedules.Linear(start=1.0, end=0.0)
            >>> Recipe.from_method("knowledge_distillation", {"weight": falling}).content["settings"]
            {'weight': {'schedule': 'linear', 'start': 1.0, 'end': 0.0}}
        """
        what = {"method": method, **({"settings": writing.plain(settings)} if settings else {})}
        return cls({**writing.plain(sections), **what})

    @property
    def content(self) -> dict[str, Any]:
        """What its file holds."""
        return copy.deepcopy(self._content)

    def section(self, name: str) -> dict[str, Any]:
        """Return what a section holds; nothing of one that is left out."""
        return copy.deepcopy(self._content.get(name) or {})

    @property
    def method(self) -> str | None:
        """The name of its method; None of one that has stages."""
        name: str | None = self._content.get("method")
        return name

    @property
    def reads(self) -> tuple[str, ...]:
        """Which models its stages are made for, as they name layers of these: some of "student" and "teacher"."""
        names: tuple[str, ...] = self._part.reads
        return names

    def stages(self, *, student: nn.Module | None = None, teacher: nn.Module | None = None) -> list[Stage] | None:
        """Return its stages, made afresh; None if the student learns alone.

        Args:
            student: The student, for a method that finds its layers in it (`reads`); others do not look at it.
            teacher: Likewise the teacher.

        Raises:
            TypeError: If the method needs a model that is not given.
            ValueError: If it does not fit the models.
        """
        given = {"student": student, "teacher": teacher}
        models = {name: given[name] for name in self.reads}
        if wrong := [name for name, model in models.items() if not isinstance(model, nn.Module)]:
            found = given[wrong[0]]
            raise TypeError(
                f"{self.method} finds its layers in the {wrong[0]}, which has to be a model"
                + (f": stages({wrong[0]}=...)" if found is None else f" and not a {type(found).__name__}")
            )
        stages: list[Stage] | None = self._part.stages_of_run(models)
        return stages

    def mean_teacher(self) -> MeanTeacher | None:
        """Return the mean of the student that teaches; None if a model does."""
        teacher = self._part.teacher
        mean: MeanTeacher | None = None if teacher is None else built(teacher.mean)
        return mean

    def augmentation(self) -> Augmentation | Literal["auto"] | None:
        """Return what changes the images of each batch: None for nothing, "auto" for what suits the student."""
        given = built(self._part.augmentation)
        if given == "auto":
            return "auto"
        return Compose(given) if given else None

    def synthesis(self) -> dict[str, Any] | None:
        """Return how images are made out of the teacher, as arguments of `synthesize`; None if there are others."""
        data = self._part.data
        made: dict[str, Any] | None = None if data is None or data.synthesize is None else data.synthesize.build()
        return made

    def resolved(self) -> Recipe:
        """Return the recipe with the seed and the defaults of its method, which may change later, written out.

        Example:
            >>> Recipe({"method": "knowledge_distillation"}).resolved().content["settings"]["temperature"]
            4.0
        """
        content = self.content
        if self.method in METHODS:
            # A recipe writes nothing for what its method finds out by itself.
            settings = {name: one for name, (_, one) in parameters_of(METHODS[self.method]).items() if is_plain(one)}
            written = {name: writing.plain(one) for name, one in settings.items() if one is not None and one != ()}
            content["settings"] = {**written, **self.section("settings")}
        content["training"] = {"seed": DistillationArguments.seed, **self.section("training")}
        return Recipe(content, origin=self._origin)

    def to_yaml(self) -> str:
        """Return the text of its file.

        What a file may not say (see `load`) is named in a comment, and not kept.
        """
        return to_yaml(self._content)

    def save(self, path: str | Path) -> None:
        """Write it as YAML, whole or not at all; see `to_yaml`."""
        write_text(Path(path), self.to_yaml())

    def __eq__(self, other: object) -> bool:
        """Whether another recipe says the same."""
        return self._content == other._content if isinstance(other, Recipe) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Recipe({self._content!r})"


@cache
def _adapter() -> TypeAdapter[Any]:
    """Return what checks recipes; made when the first is, as it is put together of all objectives and methods."""
    return TypeAdapter(recipe_value())
