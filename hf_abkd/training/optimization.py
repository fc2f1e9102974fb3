"""The optimiser and the learning rate of a stage, where they differ from transformers' own."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import SchedulerType, Trainer

from hf_abkd.models.start import Start, start_of
from hf_abkd.stages.arguments import DistillationArguments
from hf_abkd.stages.lengths import stage_arguments
from hf_abkd.stages.stage import Stage
from hf_abkd.stages.suited_arguments import SuitedArguments
from hf_abkd.training.life.checkpoints import load_state
from hf_abkd.training.progress import Span
from hf_abkd.training.split_momentum import check_split, split_sgd
from hf_abkd.wording import counted

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GivenOptimizers:
    """What a user gave the trainer to optimise with.

    Args:
        optimizer: An optimiser for a run of one stage, or None.
        scheduler: A schedule of its learning rate, or None.
        kind: Class and settings of the optimiser of stages that name none; None for what their arguments say.
    """

    optimizer: torch.optim.Optimizer | None
    scheduler: Any
    kind: tuple[type, dict[str, Any]] | None

    def any(self) -> bool:
        """Whether they gave an optimiser, or the class of one."""
        return self.optimizer is not None or self.kind is not None

    def of_stage(
        self, index: int, stage: Stage, arguments: DistillationArguments
    ) -> tuple[torch.optim.Optimizer | None, Any, tuple[type, dict[str, Any]] | None]:
        """Return optimiser and schedule of a stage, if they are there, and of what class and settings one is made.

        Args:
            index: Which stage.
            stage: The stage.
            arguments: Its training arguments. They get the weight decay of the optimiser's settings: the groups of
                parameters carry that of the arguments, which would win over it.
        """
        optimizer, scheduler = (self.optimizer, self.scheduler) if index == 0 else (None, None)
        if arguments.momentum_delta is not None:
            return optimizer, scheduler, self.split(stage, arguments)
        if stage.optimizer is None:
            return optimizer, scheduler, self.kind
        kind, settings = stage.optimizer[0], {"lr": arguments.learning_rate, **stage.optimizer[1]}
        arguments.weight_decay = settings.pop("weight_decay", arguments.weight_decay)
        return optimizer, scheduler, (kind, settings)

    def split(self, stage: Stage, arguments: DistillationArguments) -> tuple[type, dict[str, Any]]:
        """Return class and settings of the optimiser of a stage whose momentum is split.

        Args:
            stage: The stage.
            arguments: Its training arguments, which get the weight decay of the optimiser's settings, as above.

        Raises:
            ValueError: If that is not possible in the stage, or with its optimiser.
        """
        check_split(stage, arguments)
        if self.optimizer is not None:
            raise ValueError(
                "momentum_delta makes its own optimiser, and one was given to the trainer: leave `optimizers` out, and "
                "set optim='sgd', optim_args='momentum=0.9'"
            )
        # What Trainer would make of the arguments.
        kind, settings = stage.optimizer or self.kind or Trainer.get_optimizer_cls_and_kwargs(arguments)
        where = f"stage {stage.name!r}" if stage.name else "a stage"
        made_of, settings = split_sgd(
            kind, {"lr": arguments.learning_rate, **settings}, arguments.momentum_delta or 0.0, where
        )
        if stage.optimizer is not None:
            arguments.weight_decay = settings.pop("weight_decay", arguments.weight_decay)
        return made_of, settings


def decayed_names(module: nn.Module, args: DistillationArguments) -> list[str]:
    """Return the parameters with weight decay: those of two dimensions or more, or all if the arguments say so.

    Transformers goes by the names of modules, and decays the BatchNorm weights of most image models.
    """
    return [name for name, tensor in module.named_parameters() if tensor.ndim > 1 or args.decay_norm_and_bias]


class Optimization:
    """How the stages of a run are optimised: by what a user gave, and by what suits the student for the rest.

    Args:
        given: The optimisers that a user gave the trainer.
        student: The student, as it is when its training begins.
        weights: What its weights count as; see `hf_abkd.models.start.start_of`.
    """

    def __init__(self, given: GivenOptimizers, student: nn.Module, weights: str = "auto") -> None:
        self.given = given
        self.suited = SuitedArguments(start_of(student, weights), by_hand=given.any())

    def arguments(self, args: DistillationArguments, stages: Sequence[Stage]) -> list[DistillationArguments]:
        """Return the training arguments of every stage; see `hf_abkd.stages.lengths.stage_arguments`."""
        found = stage_arguments(args, stages, self.suited)
        for stage, arguments in zip(stages, found, strict=True):
            if arguments.momentum_delta is not None:
                self.given.split(stage, copy.copy(arguments))
        return found

    def go_on(self, checkpoint: Path | None) -> None:
        """Take up what the student of the run started from: one that was loaded from a checkpoint is a trained one.

        Args:
            checkpoint: What the run goes on from; None for a new run.
        """
        start = None if checkpoint is None else load_state(checkpoint).get("start")
        if start is not None:
            self.suited = replace(self.suited, start=Start(**start))

    def describe(self) -> dict[str, Any]:
        """Return what a checkpoint holds of it."""
        return {"start": asdict(self.suited.start)}

    def tell(
        self,
        given: DistillationArguments,
        stages: Sequence[Stage],
        arguments: Sequence[DistillationArguments],
        spans: Sequence[Span],
    ) -> None:
        """Say what optimiser and learning rate were chosen for the user, and why, and which stages are too short.

        Args:
            given: The arguments of the run, as the user gave them.
            stages: The stages of the run.
            arguments: The arguments of each.
            spans: Where they lie in the run.
        """
        for stage, span in zip(stages, spans, strict=True):
            steps = span.stop - span.start
            if steps < (stage.enough_steps or 0):
                logger.warning(
                    "stage %r has %s, and below %d it does not pay: students of such short runs came out worse than "
                    "without it. Train longer, or without this stage",
                    stage.name,
                    counted(steps, "step"),
                    stage.enough_steps,
                )
        reason = self.suited.reason(given)
        if reason:
            told = [f"  {stage.name}: {settings_text(own)}" for stage, own in zip(stages, arguments, strict=True)]
            tqdm.write("\n".join([f"Training settings, {reason}:", *told]))


def settings_text(args: DistillationArguments) -> str:
    """Return optimiser and learning rate of a stage in words."""
    optimizer = f"{args.optim.value}({args.optim_args or ''})".removesuffix("()")  # type: ignore[union-attr]
    if args.lr_milestones:
        drops = ", ".join(f"{100 * share:g}" for share in args.lr_milestones)
        schedule = f"times {args.lr_gamma:g} at {drops} %"
    else:
        schedule = SchedulerType(args.lr_scheduler_type).value
    split = f" and momenta {args.momentum_delta:g} apart from it" if args.momentum_delta else ""
    warmup = args.warmup_steps or 0
    rise = f" after a warm-up of {100 * warmup:g} %" if 0 < warmup < 1 else f" after {warmup:g} steps" if warmup else ""
    decay = f"weight decay {args.weight_decay:g}{' on all weights' if args.decay_norm_and_bias else ''}"
    clip = f"gradients clipped at {args.max_grad_norm:g}" if args.max_grad_norm else "no clipping"
    return f"{optimizer}{split}, learning rate {args.learning_rate:g} {schedule}{rise}, {decay}, {clip}"


def check_optimizer(optimizer: torch.optim.Optimizer, trained: nn.Module) -> None:
    """Refuse an optimiser that a user made and that does not hold all that is trained.

    Raises:
        ValueError: If it leaves a trainable parameter out.
    """
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    left_out = [n for n, p in trained.named_parameters() if p.requires_grad and id(p) not in held]
    if left_out:
        raise ValueError(
            f"the optimizer given to the trainer does not hold {left_out[:5]}, which would never be trained. Give "
            "the Stage an `optimizer=(class, settings)` instead: it is made over student and connectors."
        )


def milestone_schedule(
    optimizer: torch.optim.Optimizer, args: DistillationArguments, steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Return the schedule of `lr_milestones`: after the warm-up the learning rate drops at these shares of a stage.

    Args:
        optimizer: The optimiser.
        args: The arguments of the stage.
        steps: How many steps it has.
    """
    warmup = args.get_warmup_steps(steps)
    drops = [milestone * steps for milestone in args.lr_milestones or []]

    def factor(step: int) -> float:
        return step / warmup if step < warmup else args.lr_gamma ** sum(step >= drop for drop in drops)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
