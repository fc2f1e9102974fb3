"""The optimiser and the learning rate of a stage, where they differ from transformers' own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hf_abkd.stages.arguments import DistillationArguments
from hf_abkd.stages.stage import Stage


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
        if stage.optimizer is None:
            return optimizer, scheduler, self.kind
        kind, settings = stage.optimizer[0], {"lr": arguments.learning_rate, **stage.optimizer[1]}
        arguments.weight_decay = settings.pop("weight_decay", arguments.weight_decay)
        return optimizer, scheduler, (kind, settings)


def decayed_names(module: nn.Module, args: DistillationArguments) -> list[str]:
    """Return the parameters with weight decay: those of two dimensions or more, or all if the arguments say so.

    Transformers goes by the names of modules, and decays the BatchNorm weights of most image models.
    """
    return [name for name, tensor in module.named_parameters() if tensor.ndim > 1 or args.decay_norm_and_bias]


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
