"""Runs: from flags to stages and a trainer, the same for training and for what examines a run before."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from transformers import PreTrainedModel

from hf_abkd.cli.labelled_alone import labelled_alone
from hf_abkd.cli.output import write_line
from hf_abkd.cli.run_flags import METHODS, RunArguments
from hf_abkd.cli.workload import Workload
from hf_abkd.data.arguments import DataArguments
from hf_abkd.data.augment import Augmentation, Compose, RandomCrop, RandomHorizontalFlip
from hf_abkd.data.mixing import CutMix
from hf_abkd.layers.plan import Plan
from hf_abkd.methods import activation_boundary, knowledge_distillation
from hf_abkd.models.arguments import ModelArguments
from hf_abkd.models.start import start_of
from hf_abkd.reports.metrics import classification_metrics
from hf_abkd.stages.arguments import DistillationArguments
from hf_abkd.stages.stage import Stage
from hf_abkd.teachers.cache.teacher_cache import TeacherCache
from hf_abkd.training.trainer import DistillationTrainer


def check_teacher(methods: Sequence[str], models: ModelArguments) -> None:
    """Refuse methods that need a teacher where the flags name none.

    Raises:
        ValueError: If there is none.
    """
    if models.teacher_name_or_path is None and any(method != "alone" for method in methods):
        raise ValueError("--teacher_name_or_path is missing; --method alone trains the student without a teacher")


def check_unlabelled(methods: Sequence[str], data: DataArguments) -> None:
    """Refuse images without labels where nothing learns from them; of several methods, tell who does without.

    Args:
        methods: The methods that students are trained by; "alone" learns from labels only.
        data: Which images.

    Raises:
        ValueError: If no method learns from them.
    """
    if not data.names_unlabelled:
        return
    if all(method == "alone" for method in methods):
        alone = " (--method alone learns from labels only): choose a method with a teacher, or" if methods else ":"
        raise ValueError(
            f"nothing here learns from images without labels{alone} leave out --unlabelled_files and --unlabelled_dir"
        )
    if "alone" in methods and os.environ.get("RANK", "0") == "0":
        title = METHODS["alone"]
        write_line(f"{title}: trained on the images with labels only, for as many steps as the other methods")


def stages_of(method: str, run: RunArguments) -> list[Stage] | None:
    """Return the stages of a method; None trains the student alone.

    Raises:
        FileNotFoundError: If there is no such plan.
        ValueError: If flags contradict each other, or a value is not possible.
    """
    if method == "alone":
        return None
    given: dict[str, Any] = (
        {} if run.kd_weight is None else {"weight": run.kd_weight, "label_weight": 1 - run.kd_weight}
    )
    given |= {} if run.temperature is None else {"temperature": run.temperature}
    kd = knowledge_distillation(**given)
    if method == "kd":
        if run.kd_weight == 0:
            raise ValueError("--kd_weight 0 leaves nothing of KD: --method alone trains by the labels")
        return kd
    if not 0 < run.initialization_share < 1:
        raise ValueError(
            "--initialization_share is the share of the run that AB takes before KD, between 0 and 1; got "
            f"{run.initialization_share:g}. --method kd trains by KD from the start"
        )
    return activation_boundary(
        _layers(run),
        weight=run.boundary_weight,
        units_per_channel=run.units_per_channel or None,
        boundaries_fall=run.boundaries_fall,
        initialization_share=run.initialization_share,
        # Without a word on KD, each method has the terms that suit it.
        classification=[term for stage in kd for term in stage.each_term()] if given else None,
    )


def make_trainer(
    student: PreTrainedModel,
    work: Workload,
    args: DistillationArguments,
    run: RunArguments,
    stages: Sequence[Stage] | None,
    augmentation: Augmentation | Literal["auto"] | None = "auto",
) -> DistillationTrainer:
    """Return the trainer of some stages; methods that are compared differ in their stages alone.

    Args:
        student: The student.
        work: Teacher and images.
        args: The training arguments.
        run: How the images are augmented, where `augmentation` does not say so.
        stages: The stages; None trains the student alone.
        augmentation: What changes the images of each batch; "auto" for what the flags say or suits the student.

    Raises:
        ValueError: If models, images and stages do not fit.
    """
    if work.validation is None and args.eval_strategy != "no":
        if args.load_best_model_at_end:
            raise ValueError(
                "--load_best_model_at_end needs evaluation images to tell the best by: give validation data "
                "(--validation_files, --validation_dir), or a --train_val_split above 0"
            )
        # Evaluating is this command's default, and --train_val_split 0 leaves nothing to do it on.
        changes: dict[str, Any] = {"eval_strategy": "no"}
        args = replace(args, **changes)
    if args.student_start == "auto":
        args = replace(args, student_start=work.student_start)
    if not stages:
        work, args = labelled_alone(work, args)
    _check_best(args, agreement=bool(stages))
    if augmentation == "auto":
        augmentation = augmentation_of(
            _crop_padding(run, student, work, args.student_start), flip=run.flip, cutmix=run.cutmix
        )
    return DistillationTrainer(
        student,
        args,
        teacher=work.teacher if stages else None,
        # The student alone sees what the others see, which for two processors is made of pixels that fit both.
        teacher_processor=work.teacher.processor if isinstance(work.teacher, TeacherCache) else work.teacher_processor,
        stages=stages,
        augmentation=augmentation,
        train_dataset=work.train,
        eval_dataset=work.validation,
        processing_class=work.processor,
        compute_metrics=classification_metrics(),
    )


def _check_best(args: DistillationArguments, *, agreement: bool) -> None:
    """Refuse a best model by what no evaluation measures, which transformers does after the first one."""
    name = (args.metric_for_best_model or "loss").removeprefix("eval_")
    measured = ["accuracy", "loss"] + (["teacher_agreement"] if agreement and args.eval_agreement else [])
    chooses = args.load_best_model_at_end or args.save_strategy == "best"
    if chooses and name not in measured and not name.startswith("boundary_agreement/"):
        raise ValueError(f"--metric_for_best_model {name} is not measured; evaluations measure {', '.join(measured)}")


def _crop_padding(run: RunArguments, student: PreTrainedModel, work: Workload, weights: str) -> float:
    """Return by how much images are shifted; what a cached teacher saw is told by the flags alone."""
    if run.crop_padding is not None:
        return run.crop_padding
    return 0 if isinstance(work.teacher, TeacherCache) or start_of(student, weights).trained else 1 / 8


def augmentation_of(crop_padding: float, *, flip: bool, cutmix: bool = False) -> Augmentation | None:
    """Return the augmentation that the flags ask for, None for none."""
    padding = crop_padding if crop_padding % 1 else int(crop_padding)
    augmentations: list[Augmentation] = [RandomCrop(padding=padding)] if crop_padding else []
    augmentations += [RandomHorizontalFlip()] if flip else []
    augmentations += [CutMix()] if cutmix else []
    return Compose(augmentations) if augmentations else None


def _layers(run: RunArguments) -> Plan | list[tuple[str, str]] | None:
    named = run.student_layers or [], run.teacher_layers or []
    if run.plan is not None:
        if any(named):
            raise ValueError(
                "--plan names the layers already: leave out --student_layers and --teacher_layers, or put them into "
                f"{run.plan}"
            )
        return Plan.load(run.plan)
    if len(named[0]) != len(named[1]):
        raise ValueError(
            f"--student_layers and --teacher_layers must name as many layers each, got {named[0]} and {named[1]}. "
            "Leave both out to have them paired automatically."
        )
    return list(zip(*named, strict=True)) or None
