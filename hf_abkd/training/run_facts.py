"""Facts of a run for its model card: settings and scores read from arguments, stages and the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hf_abkd.stages.arguments import DistillationArguments
from hf_abkd.training.progress import Span
from hf_abkd.training.run_stage import RunStage

# Measurements of cost, not of the model.
_COST = ("runtime", "per_second", "preparation_time", "_delta", "_peaked")


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
        "learning_rate": args.learning_rate,
        "lr_scheduler_type": schedule,
        "warmup_steps": args.warmup_steps,
        "weight_decay": args.weight_decay,
        "max_grad_norm": args.max_grad_norm,
        "total_train_batch_size": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
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
