"""The run that flags or a recipe describe: loaded as for training, examined, and nothing of it left on the disk."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, set_seed

from hf_abkd.cli import recipe_run, run_flags, runs
from hf_abkd.cli.doctor.examination import examine, untold, warnings_collected
from hf_abkd.cli.doctor.findings import Finding, failure
from hf_abkd.cli.doctor.subject import Subject
from hf_abkd.cli.recipe_access import AccessArguments
from hf_abkd.cli.workload import Workload, from_flags
from hf_abkd.data.arguments import DataArguments
from hf_abkd.models.arguments import ModelArguments
from hf_abkd.objectives import CrossEntropy
from hf_abkd.recipes.recipe import Recipe
from hf_abkd.stages.stage import Stage
from hf_abkd.stages.term import Term
from hf_abkd.training.trainer import DistillationTrainer
from hf_abkd.wording import counted

Stages = Sequence[Stage] | None


@dataclass(frozen=True)
class DescribedRun:
    """What a run is made by, step by step, so that a mistake is told of the step in which it is.

    Args:
        models: Which models, as flags name them.
        args: The training arguments.
        load: Loads models and images, with the training arguments that it is given.
        stages: Returns the stages, of the student and what is loaded.
        trainer: Makes the trainer of a student, what is loaded, training arguments and stages.
    """

    models: ModelArguments
    args: run_flags.TrainingArguments
    load: Callable[[run_flags.TrainingArguments], Workload]
    stages: Callable[[PreTrainedModel, Workload], Stages]
    trainer: Callable[[PreTrainedModel, Workload, run_flags.TrainingArguments, Stages], DistillationTrainer]


def described_by_flags(
    method: str,
    run: run_flags.RunArguments,
    models: ModelArguments,
    data: DataArguments,
    args: run_flags.TrainingArguments,
) -> DescribedRun:
    """Return the run that flags describe.

    Args:
        method: What the student is trained by.
        run: How to distil.
        models: Which models.
        data: Which images.
        args: The training arguments.
    """

    def stages(_: PreTrainedModel, __: Workload) -> Stages:
        runs.check_teacher([method], models)
        runs.check_unlabelled([method], data)
        return runs.stages_of(method, run)

    return DescribedRun(
        models,
        args,
        # An examination leaves nothing on the disk.
        load=lambda args: from_flags(models, replace(data, pixel_cache=None), seed=args.seed),
        stages=stages,
        trainer=lambda student, work, args, stages: runs.make_trainer(student, work, args, run, stages),
    )


def described_by_recipe(recipe: Recipe, access: AccessArguments) -> DescribedRun:
    """Return the run that a recipe describes.

    Args:
        recipe: The recipe.
        access: What its user allows it.

    Raises:
        ValueError: If it leaves open what it runs on, or makes its images first, which takes more than a look.
    """
    run = recipe_run.RecipeRun(recipe, access)
    if recipe.synthesis() is not None:
        raise ValueError(
            "the recipe makes its images out of the teacher, which takes long and is no part of an examination: make "
            "them with hf-abkd synthesize, and name their folder as data.dataset_name in the place of data.synthesize"
        )
    arguments = recipe_run.training_arguments(recipe)
    return DescribedRun(
        run.models(), arguments, load=partial(run.workload, cached=False), stages=run.stages, trainer=run.trainer
    )


def examine_run(run: DescribedRun) -> Iterator[Finding]:
    """Load what a run is described by, make its trainer, and examine it; nothing is left on the disk.

    If the trainer cannot be made, a student that learns from the labels alone is examined in the place of the run.

    Args:
        run: The run.
    """
    with tempfile.TemporaryDirectory() as scratch:
        changes: dict[str, Any] = {"output_dir": scratch, "push_to_hub": False, "report_to": "none"}
        with warnings_collected() as said:
            trainer, findings = _made(run, replace(run.args, **changes))
        yield from findings
        if trainer is not None:
            for finding in examine(Subject(trainer, flags=run.models, output_dir=Path(run.args.output_dir))):
                findings.append(finding)
                yield finding
        yield from untold("run", said, findings)


def _made(run: DescribedRun, args: run_flags.TrainingArguments) -> tuple[DistillationTrainer | None, list[Finding]]:
    """Return the trainer of a run, or else one of the labels alone, or else none; and what there is to say."""
    try:
        work = run.load(args)
        set_seed(args.seed)
        student = work.make_student()
    except Exception as error:  # noqa: BLE001 (whatever it is, it is what there is to say)
        return None, [failure("run", error)]
    findings = []
    try:
        trainer = run.trainer(student, work, args, run.stages(student, work))
        # Runs both models on a batch.
        trainer.plan  # noqa: B018
    except Exception as error:  # noqa: BLE001
        findings.append(failure("run", error))
        try:
            trainer = run.trainer(student, work, args, [Stage([Term(CrossEntropy())], name="labels alone")])
            trainer.plan  # noqa: B018
        except Exception as another:  # noqa: BLE001
            if str(another) != str(error):
                findings.append(failure("run", another))
            return None, findings
        message = "the run cannot be made; examined instead: the student, taught by the labels alone"
        return trainer, [*findings, Finding("note", "run", message)]
    return trainer, [Finding("ok", "run", _described(trainer, work))]


def _described(trainer: DistillationTrainer, work: Workload) -> str:
    models = f"{type(trainer.model).__name__} ({trainer.model.num_parameters():,} parameters)"
    if trainer.teacher is not None:
        size = sum(parameter.numel() for parameter in trainer.teacher.model.parameters())
        models += f" learns from {type(trainer.teacher.model).__name__} ({size:,})"
    elif trainer.cache is not None:
        models += f" learns from what {trainer.cache.reference['class']} said, in {trainer.cache.table.folder}"
    rows = counted(len(work.train), "image") if isinstance(work.train, Dataset) else "a stream of images"
    rows += f" ({work.unlabelled:,} without a label)" if work.unlabelled else ""
    stages = ", then ".join(stage.name for stage in trainer.stages)
    return f"{models} on {rows} of {work.name}, {trainer.model.config.num_labels} classes; {stages}"
