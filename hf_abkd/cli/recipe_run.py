"""Runs from recipes: what a recipe names is loaded, and its student is trained."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel, set_seed

from hf_abkd.cli import comparison, run_flags, runs
from hf_abkd.cli.adapted_images import with_target_domain
from hf_abkd.cli.kept_recipe import keep_recipe
from hf_abkd.cli.made_images import with_made_images
from hf_abkd.cli.recipe_access import AccessArguments
from hf_abkd.cli.workload import Workload, from_flags
from hf_abkd.data.arguments import DataArguments
from hf_abkd.models.arguments import ModelArguments
from hf_abkd.models.smaller.factors import Factors
from hf_abkd.recipes.recipe import Recipe
from hf_abkd.recipes.sections import ALONE
from hf_abkd.stages.stage import Stage
from hf_abkd.stages.term import PairedTerms
from hf_abkd.teachers.route.anchors import fetch_anchors
from hf_abkd.teachers.route.route import TeacherRoute
from hf_abkd.training.trainer import DistillationTrainer


def check_complete(recipe: Recipe) -> None:
    """Refuse a recipe that leaves open what it runs on; the message says how to give it.

    Raises:
        ValueError: If models, images or the output folder are not named.
    """
    data = recipe.section("data")
    student = recipe.section("student")
    needed = {"training.output_dir": recipe.section("training")}
    if student.get("from_teacher") is None:
        needed = {"student.model": student, **needed}
    elif recipe.mean_teacher() is not None:
        raise ValueError(
            "student.from_teacher takes blocks and channels of a teacher, and the mean of the student has none before "
            "it: name the student, student.model=..."
        )
    if _needs_model_that_teaches(recipe):
        needed["teacher.model"] = recipe.section("teacher")
    missing = [path for path, section in needed.items() if path.split(".")[1] not in section]
    if not {"dataset_name", "train_files", "train_dir", "synthesize"} & set(data):
        missing.append("data.train_dir (or data.train_files, data.dataset_name)")
    if missing:
        raise ValueError(
            f"the recipe leaves open what it runs on: {', '.join(missing)}. Write it into the file, or behind its name "
            f"on the command line: {missing[0].partition(' ')[0]}=..."
        )
    if recipe.method == "joint_adaptation" and "target_domain" not in data:
        raise ValueError("joint_adaptation needs images of another domain: data.target_domain.train_dir=...")


def training_arguments(recipe: Recipe) -> run_flags.TrainingArguments:
    """Return the training arguments of a recipe, where they are left out with the defaults of the command line.

    Raises:
        TypeError: If something is no number.
        ValueError: If they do not go together.
    """
    return run_flags.TrainingArguments(**recipe.section("training"))


class RecipeRun:
    """What a recipe describes, made step by step; anchors of a route that lie on the Hub are fetched once.

    Args:
        recipe: The recipe.
        access: What its user allows it.

    Raises:
        ValueError: If the recipe leaves open what it runs on.
    """

    def __init__(self, recipe: Recipe, access: AccessArguments) -> None:
        check_complete(recipe)
        self.recipe = recipe
        self._access = access

    @cached_property
    def _stages(self) -> Sequence[Stage] | None:
        """The stages of a recipe that reads no models for them."""
        return _with_anchors(self.recipe.stages(), self._access)

    def models(self) -> ModelArguments:
        """Return the models as flags name them; the last anchor of a route is its teacher."""
        teacher, student = self.recipe.section("teacher"), self.recipe.section("student")
        named = teacher.get("model")
        if named is None and not self.recipe.reads and (routes := _routes(self._stages)):
            named = str(routes[0].anchors[-1])
        factors = student.get("from_teacher")
        # A student that learns alone has no teacher, whoever the recipe names, unless it is made of one.
        alone = self.recipe.method == ALONE and factors is None
        return ModelArguments(
            teacher_name_or_path=None if alone else named,
            teacher_revision=teacher.get("revision", "main"),
            **({} if alone else _held(teacher)),
            teacher_image_processor_name=None if alone else teacher.get("image_processor"),
            student_name_or_path=student.get("model"),
            student_from_teacher=None if factors is None else str(Factors(**factors)),
            student_revision=student.get("revision", "main"),
            image_processor_name=student.get("image_processor"),
            ignore_mismatched_sizes=student.get("ignore_mismatched_sizes", False),
            **dataclasses.asdict(self._access),
        )

    def workload(self, args: run_flags.TrainingArguments, *, cached: bool = True) -> Workload:
        """Load the models and the images, some of which may have to be made first.

        Args:
            args: The training arguments.
            cached: Whether images are read from pixel caches where the recipe says so, which may be written first.

        Raises:
            ValueError: If models and images do not fit.
            FileNotFoundError: If a file or folder does not exist.
        """
        recipe, models = self.recipe, self.models()
        section = recipe.section("data")
        synthesis, target = recipe.synthesis(), section.pop("target_domain", None)
        section.pop("synthesize", None)
        if not cached:
            section, target = _decoded(section), None if target is None else _decoded(target)
        data = DataArguments(**section)
        if synthesis is not None:
            data = with_made_images(data, models, synthesis, args)
        runs.check_unlabelled([recipe.method or "stages"], data)
        work = from_flags(models, data, seed=args.seed)
        if target is None:
            return work
        columns = {name: section[name] for name in ("image_column_name", "label_column_name") if name in section}
        return with_target_domain(work, data, DataArguments(**{**columns, **target}), models, seed=args.seed)

    def stages(self, student: PreTrainedModel, work: Workload) -> Sequence[Stage] | None:
        """Return the stages for a student and what is loaded; None if the student learns alone.

        Raises:
            ValueError: If models and stages do not fit.
        """
        if not self.recipe.reads:
            return self._stages
        # A cache is no model, and a method that looks for its layers in one says so.
        return self.recipe.stages(student=student, teacher=cast("nn.Module | None", work.teacher))

    def trainer(
        self,
        student: PreTrainedModel,
        work: Workload,
        args: run_flags.TrainingArguments,
        stages: Sequence[Stage] | None,
    ) -> DistillationTrainer:
        """Return the trainer of a student whose stages are made.

        Raises:
            ValueError: If models, images and stages do not fit.
        """
        mean, how = self.recipe.mean_teacher(), run_flags.RunArguments()
        work = work if mean is None else replace(work, teacher=mean)
        return runs.make_trainer(student, work, args, how, stages, augmentation=self.recipe.augmentation())


def trainer_of(recipe: Recipe, access: AccessArguments) -> tuple[DistillationTrainer, Workload]:
    """Load what a recipe names, and return the trainer of its student, and what it trains on.

    Raises:
        ValueError: If the recipe is not complete, or models, images and stages do not fit.
        FileNotFoundError: If a file or folder does not exist.
    """
    run, args = RecipeRun(recipe, access), training_arguments(recipe)
    work = run.workload(args)
    set_seed(args.seed)
    student = work.make_student()
    trainer = run.trainer(student, work, args, run.stages(student, work))
    keep_recipe(recipe, trainer)
    return trainer, work


def train_recipe(recipe: Recipe, access: AccessArguments) -> comparison.Outcome:
    """Train the student of a recipe, save it with its model card and the recipe, and return what became of it."""
    trainer, work = trainer_of(recipe, access)
    return comparison.noted(comparison.finished(recipe.method or "stages", trainer, work), trainer.args)


def _decoded(images: Mapping[str, Any]) -> dict[str, Any]:
    """Return a section of images without a pixel cache."""
    return {name: value for name, value in images.items() if name != "pixel_cache"}


def _needs_model_that_teaches(recipe: Recipe) -> bool:
    """Whether the terms of a recipe compare with a teacher that it has to name."""
    if recipe.mean_teacher() is not None:
        return False
    if recipe.reads:
        return True
    stages = recipe.stages() or ()
    terms = [term for stage in stages for term in stage.terms]
    is_made_of_it = recipe.section("student").get("from_teacher") is not None
    # The last anchor of a route is its teacher.
    return not _routes(stages) and (
        is_made_of_it or any(isinstance(term, PairedTerms) or term.wants_teacher for term in terms)
    )


def _routes(stages: Sequence[Stage] | None) -> list[TeacherRoute]:
    return [stage.route for stage in stages or () if stage.route is not None]


def _held(teacher: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a recipe says that the teacher's weights are held, as flags say it."""
    found = {f"teacher_{name}": teacher[name] for name in ("dtype", "device_map", "bits") if name in teacher}
    if isinstance(found.get("teacher_device_map"), Mapping):
        found["teacher_device_map"] = json.dumps(found["teacher_device_map"])
    return found


def _with_anchors(stages: Sequence[Stage] | None, access: AccessArguments) -> Sequence[Stage] | None:
    """Return stages whose anchors are folders on this machine, those on the Hub downloaded."""
    if stages is None or not _routes(stages):
        return stages
    fetched: dict[tuple[Path, ...], list[Path]] = {}
    done = []
    for stage in stages:
        route = stage.route
        if route is not None:
            if route.anchors not in fetched:
                fetched[route.anchors] = fetch_anchors(
                    list(map(str, route.anchors)), token=access.token, cache_dir=access.cache_dir
                )
            part = route.part
            route = TeacherRoute(fetched[route.anchors], shares=route.shares)
            stage = replace(stage, teacher=route if part is None else route.only(part))
        done.append(stage)
    return done
