"""Costs: how many parameters a model has and how many multiplications it takes, to tell a student from its teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# Heads for other classes make small differences.
_MARGIN = 1.05


@dataclass(frozen=True)
class Cost:
    """What a model costs.

    Args:
        parameters: How many parameters it has.
        multiplications: How many its convolutions and linear layers take for a batch.
    """

    parameters: int
    multiplications: int


def cost_of(model: nn.Module, forward: Callable[[], object]) -> Cost | None:
    """Run a model once and return what it costs; None if its layers do not show it: in TorchScript, or in 8 bits.

    Args:
        model: The model.
        forward: Runs it on a batch.
    """
    if not _shows_its_cost(model):
        forward()
        return None
    counts: list[int] = []

    def count(module: Any, _: object, output: Tensor) -> None:
        per_number = module.weight.numel() // module.weight.shape[0]
        counts.append(output.numel() * per_number)

    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    handles = [module.register_forward_hook(count) for module in model.modules() if isinstance(module, kinds)]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return Cost(sum(parameter.numel() for parameter in model.parameters()), sum(counts))


def _shows_its_cost(model: nn.Module) -> bool:
    return not any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()) and all(
        isinstance(value, Tensor) and not value.is_quantized and value.dtype not in (torch.int8, torch.uint8)
        for value in model.state_dict().values()
    )


def exceeds(student: Cost | None, teacher: Cost | None) -> str | None:
    """Return a sentence if a student is larger or slower than its teacher; None if not, or if it is not known."""
    if student is None or teacher is None:
        return None
    parts = []
    if student.parameters > _MARGIN * teacher.parameters:
        parts.append(f"has {student.parameters:,} parameters (its teacher {teacher.parameters:,})")
    if student.multiplications > _MARGIN * teacher.multiplications > 0:
        parts.append(
            f"takes {student.multiplications / teacher.multiplications:.3g} times its teacher's multiplications"
        )
    if not parts:
        return None
    return f"the student {' and '.join(parts)}: are the two models the wrong way round?"
