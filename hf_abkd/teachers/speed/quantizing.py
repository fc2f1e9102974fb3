"""Quantising: linear layers compute in 8-bit integers, and the answers change by some per cent."""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch
from torch import nn

from hf_abkd.teachers.speed.comparison import Comparison
from hf_abkd.teachers.speed.copies import FastModel, hooked_part, sharing_copy

# How far 8-bit answers may be from the teacher's on average (root mean square), as a share of their spread.
_TOLERANCE = 0.25


def quantize(current: FastModel, comparison: Comparison) -> tuple[FastModel, str]:
    """Return a copy of a teacher whose linear layers compute in 8-bit integers, and what was done, in a few words.

    It is asked for by name, so what stands in its way is an error, and not a reason to go on without.

    Raises:
        ValueError: If it cannot be done, or the copy says something else.
    """
    quantized = replace(current, model=_quantized(current.model))
    average = comparison.average_deviation(quantized)
    if not average <= _TOLERANCE:
        raise ValueError(
            f"in 8 bits the teacher {type(comparison.model).__name__} says something else: its tensors differ by "
            f"{average:.2g} of their spread on average, and {_TOLERANCE} is allowed. Set "
            "teacher_quantize=False."
        )
    return quantized, f"linear layers in 8 bits ({average:.1g} of the spread off on average)"


def _quantized(model: nn.Module) -> nn.Module:
    """Return a copy of a model whose linear layers compute in 8-bit integers.

    Raises:
        ValueError: If it is not on a CPU, has no linear layers, or this version of torch cannot do it.
    """
    linear = [module for module in model.modules() if type(module) is nn.Linear]
    if not linear or any(
        module.weight.device.type != "cpu" or module.weight.dtype != torch.float32 for module in linear
    ):
        raise ValueError(
            "teacher_quantize is for linear layers in float32 on a CPU, and the teacher "
            f"{type(model).__name__} has none there; set it to False"
        )
    if blocked := hooked_part(model):
        raise ValueError(f"teacher_quantize needs a copy of the teacher, and {blocked!r} of it has hooks")
    # torch has announced that this goes to torchao, a package of its own, without a version that does so.
    quantize = getattr(getattr(torch.ao, "quantization", None), "quantize_dynamic", None)
    if quantize is None:
        raise ValueError(
            f"torch {torch.__version__} cannot quantise linear layers any more; set teacher_quantize=False"
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*deprecated", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*deprecated", category=UserWarning)
        warnings.filterwarnings("ignore", message=".*deprecated", category=FutureWarning)
        fast: nn.Module = quantize(sharing_copy(model), {nn.Linear}, dtype=torch.qint8, inplace=True)
    return fast
