"""Facts of a run for its model card: settings and scores read from arguments, stages and the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel
from transformers.trainer_callback import TrainerState

from hf_abkd.data.augment import Augmentation
from hf_abkd.layers.plan import Plan
from hf_abkd.models import adapters
from hf_abkd.models.license import license_of
from hf_abkd.models.machine import this_machine
from hf_abkd.reports.card_facts import CardFacts
from hf_abkd.reports.card_recipe import public_recipe
from hf_abkd.reports.model_card import citations
from hf_abkd.stages.arguments import DistillationArguments
from hf_abkd.teachers.source import TeacherSource
from hf_abkd.training.optimization import Optimization
from hf_abkd.training.progress import Span
from hf_abkd.training.publishing.published_form import PublishedForm
from hf_abkd.training.terms.run_stage import RunStage

if TYPE_CHECKING:
    from hf_abkd.reports.evaluation import Evaluation

# Measurements of cost, not of the model.
_COST = ("runtime", "per_second", "preparation_time", "_delta", "_peaked")


@dataclass(frozen=True)
class RunRecord:
    """What is known of a run when its card is written.

    Args:
        student: The student.
        args: The training arguments of the run.
        repo_id: Where it is published, if it is.
        form: How the student is loaded from where it is saved.
        state: The state of the trainer.
        stages: The stages.
        spans: Where they lie; empty before training.
        arguments: The training arguments of each.
        optimization: How they are optimised.
        augmentation: What changes the images of the training set.
        source: What teaches the student.
        teacher: What identifies the teacher since the run began; None before, and without one.
        plan: Which layers were paired; None if none were, or nobody knows yet.
        balance: The factors that balance the terms, by stage.
        multiplications: How many "student" and "teacher" take for an image, where that is known.
        recipe: The recipe of the run, if it has one.
        measured: What was measured of it, if it was.
    """

    student: PreTrainedModel
    args: DistillationArguments
    repo_id: str | None
    form: PublishedForm
    state: TrainerState
    stages: Sequence[RunStage]
    spans: Sequence[Span]
    arguments: Sequence[DistillationArguments]
    optimization: Optimization
    augmentation: Augmentation | None
    source: TeacherSource
    teacher: Mapping[str, Any] | None
    plan: Plan | None
    balance: Mapping[int, Sequence[float]]
    multiplications: Mapping[str, int] = field(default_factory=dict)
    recipe: str | None = None
    measured: Evaluation | None = None


def card_facts(record: RunRecord) -> CardFacts:
    """Return what the model card says of a run."""
    history = record.state.log_history
    best = record.state.best_global_step if record.args.load_best_model_at_end else None
    scores, step = last_scores(history, best)
    if measured := [entry for entry in history if "teacher_accuracy" in entry]:
        scores |= {name: value for name, value in measured[-1].items() if name.endswith("_accuracy")}
    terms = [term for stage in record.stages for term in stage.terms]
    terms += [term for stage in record.stages for term in stage.teacher_terms]
    extensions_ = [stage.stage.extension for stage in record.stages]
    extensions = [extension.citation for extension in extensions_ if extension is not None]
    return CardFacts(
        name=Path(record.repo_id or record.args.output_dir).absolute().name,
        student=type(record.student).__name__,
        parameters=adapters.merged(record.student).num_parameters(),
        chosen=record.optimization.suited.reason(record.args),
        stages=[_stage_of(record, index) for index in range(len(record.stages))],
        teacher=_teacher_of(record),
        plan=None if record.plan is None else record.plan.to_yaml(),
        scores=scores,
        scores_step=step,
        citations=citations([*(term.objective.citation for term in terms), *extensions]),
        repo_id=record.repo_id,
        revision=record.args.hub_revision,
        base_model=record.student.name_or_path,
        tags=record.student.model_tags or [],
        own_class=record.form.own_class,
        needs_code=record.form.needs_code,
        has_processor=record.form.has_processor,
        processor_needs_code=record.form.processor_needs_code,
        backend=record.form.backend,
        packages=record.form.packages,
        multiplications=record.multiplications.get("student"),
        seconds=_seconds(history),
        machine=str(this_machine()),
        recipe=None if record.recipe is None else public_recipe(record.recipe),
        evaluation=record.measured,
        curve=_curve(record),
        spans=[(stage.name, span.start, span.stop) for stage, span in zip(record.stages, record.spans, strict=False)],
    )


def _curve(record: RunRecord) -> list[tuple[int, float]]:
    """Return the accuracies of the evaluations of a run, and that before its first step where it was measured."""
    start = next((one for one in record.measured.models if one.role == "start"), None) if record.measured else None
    first = [] if start is None or start.accuracy is None else [(0, start.accuracy.value)]
    logged = {entry["step"]: entry["eval_accuracy"] for entry in record.state.log_history if "eval_accuracy" in entry}
    return [*first, *((step, value) for step, value in logged.items() if step)]


def _seconds(history: Sequence[Mapping[str, Any]]) -> float | None:
    """Return how long training took; None before its end, and of a run that went on from a checkpoint."""
    ends = [entry for entry in history if "train_runtime" in entry]
    return float(ends[-1]["train_runtime"]) if len(ends) == 1 else None


def _teacher_of(record: RunRecord) -> Mapping[str, Any] | None:
    """Return class, source, fingerprint and parameters of the teacher; None without one."""
    teacher = record.source.identify() if record.teacher is None else record.teacher
    model = record.source.model
    if teacher is None or model is None:
        return teacher
    found = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "multiplications": record.multiplications.get("teacher"),
        "revision": getattr(getattr(model, "config", None), "_commit_hash", None),
        "license": license_of(model),
    }
    return {**teacher, **found}


def _stage_of(record: RunRecord, index: int) -> dict[str, Any]:
    """Return what the card says of one stage."""
    stage, args = record.stages[index], record.arguments[index]
    span = record.spans[index] if record.spans else None
    about = stage_facts(stage, span, args, record.state.log_history, record.state.global_step)
    settings_: dict[str, Any] = about["settings"]
    given = record.optimization.given
    if given.optimizer is not None:
        settings_ |= optimizer_settings(type(given.optimizer), given.optimizer.defaults, given=True)
    elif (named := stage.stage.optimizer or given.kind) is not None:
        settings_ |= optimizer_settings(*named, given=False)
    if given.scheduler is not None:
        settings_["lr_scheduler_type"] = type(given.scheduler).__name__
    if record.augmentation is not None:
        settings_["augmentation"] = getattr(record.augmentation, "__name__", None) or repr(record.augmentation)
    for term, factor in zip(about["terms"], record.balance.get(index, ()), strict=False):
        term["weight"] += f" * {factor:.4g} (balanced)" if factor != 1 else ""
    return about


def stage_facts(
    stage: RunStage, span: Span | None, args: DistillationArguments, history: Sequence[Mapping[str, Any]], step: int
) -> dict[str, Any]:
    """Return what the model card says of one stage: what it is, how long it was, where its terms got to.

    Args:
        stage: The stage.
        span: Where it lies in the run; None before training.
        args: The arguments of the stage.
        history: The log of the run.
        step: How many steps the run has done.
    """
    terms: list[dict[str, Any]] = [dict(term) for term in stage.describe()["terms"]]
    steps = 0
    if span is not None:
        # Fewer than planned in a run that was stopped early, or goes on.
        steps = max(0, min(step, span.stop) - span.start)
        logs = [entry for entry in history if span.start < entry["step"] <= span.stop]
        for facts, term in zip(terms, stage.terms, strict=True):
            for key, name in (("loss", term.name), ("agreement", f"boundary_agreement/{term.layer}")):
                if values := [entry[name] for entry in logs if name in entry]:
                    facts[key] = values[-1]
    return {
        "name": stage.name,
        "steps": steps,
        "epochs": 0.0 if span is None else span.epochs * steps / (span.stop - span.start),
        "freeze": stage.stage.freeze,
        "terms": terms,
        "settings": settings(args) | _further(stage),
    }


def _further(stage: RunStage) -> dict[str, Any]:
    """Return what a stage does besides training the student by its terms."""
    found = {}
    if stage.stage.route is not None:
        found["teacher"] = stage.stage.route.describe()
    if stage.stage.extension is not None:
        found["extension"] = repr(stage.stage.extension)
    if stage.teacher_terms:
        found["teacher trained by"] = ", ".join(f"{term.objective!r} * {term.weight!r}" for term in stage.teacher_terms)
    return found


def settings(args: DistillationArguments) -> dict[str, Any]:
    """Return the training arguments that a model card lists, by their names."""
    schedule = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
    if args.lr_milestones:
        schedule = f"lr_milestones={args.lr_milestones}, lr_gamma={args.lr_gamma}"
    return {
        "optim": getattr(args.optim, "value", args.optim),
        **({} if args.momentum_delta is None else {"momentum_delta": args.momentum_delta}),
        "learning_rate": args.learning_rate,
        "lr_scheduler_type": schedule,
        "warmup_steps": args.warmup_steps,
        "weight_decay": args.weight_decay,
        "max_grad_norm": args.max_grad_norm,
        "total_train_batch_size": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        **({} if args.quantize_aware is None else {"quantize_aware": args.quantize_aware}),
        "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
        "seed": args.seed,
    }


def optimizer_settings(kind: type, options: Mapping[str, Any], *, given: bool) -> dict[str, Any]:
    """Return the settings of an optimiser that does not come from the arguments, by the arguments' names.

    Args:
        kind: Its class.
        options: Its keyword arguments or, of one the user made, its defaults.
        given: Whether the user made it; its defaults are then left out.
    """
    names = {"lr": "learning_rate", "weight_decay": "weight_decay"}
    rest = [f"{key}={value!r}" for key, value in options.items() if key not in names and not given]
    name = f"{kind.__name__}({', '.join(rest)})" if rest else kind.__name__
    return {"optim": name, **{ours: options[theirs] for theirs, ours in names.items() if theirs in options}}


def last_scores(history: Sequence[Mapping[str, Any]], best_step: int | None) -> tuple[dict[str, float], int | None]:
    """Return the last evaluation of the model as it is now, and its step; none if it was not evaluated.

    Args:
        history: The log of the run.
        best_step: The step whose weights were loaded at the end, if the best model was.
    """
    ends = [index for index, entry in enumerate(history) if "train_runtime" in entry]
    end = ends[-1] + 1 if ends else 0
    evaluations = [entry for entry in history[end:] if _scores(entry)]
    if not evaluations:
        # Nothing was measured since training ended. Then the best model was loaded, whose scores may be older.
        evaluations = [entry for entry in history[:end] if _scores(entry)]
        if best_step is not None:
            evaluations = [entry for entry in evaluations if entry["step"] == best_step]
    if not evaluations:
        return {}, None
    step: int = evaluations[-1]["step"]
    # Several evaluation sets are several entries.
    return {k: v for entry in evaluations if entry["step"] == step for k, v in _scores(entry).items()}, step


def _scores(entry: Mapping[str, Any]) -> dict[str, float]:
    """Return the measurements of a log entry without those of cost, and without the prefix `eval_`."""
    scores = {k.removeprefix("eval_"): v for k, v in entry.items() if k.startswith("eval_") and not k.endswith(_COST)}
    return {name: value for name, value in scores.items() if isinstance(value, (int, float))}
