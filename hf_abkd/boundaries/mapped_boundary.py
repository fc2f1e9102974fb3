"""Activation boundaries behind a linear map, without its output ever being in memory as a whole."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hf_abkd.boundaries.sides import mirrored, parts, sum_of_squares


def fits(values: Tensor, target: Tensor) -> bool:
    """Whether `mapped_boundary` is for these values and sides: on a CPU, in float32, not compiled, not empty.

    On a GPU a few large products are faster than many small ones, and a compiler fuses for itself.
    """
    exact = values.is_cpu and values.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return exact and target.dtype == torch.bool and values.numel() > 0 and not torch.compiler.is_compiling()


def mapped_boundary(
    values: Tensor, weight: Tensor, bias: Tensor, sides: Tensor, margin: float, count: int
) -> tuple[Tensor, Tensor]:
    """Return what `ActivationBoundary` and `boundary_agreement` say of values behind a linear map: value and agreement.

    Where few channels become many, writing and reading the many costs more than to compute them. They are made for a
    few positions at a time, compared, and turned into the gradients of values and weights while they are in the cache.
    What autograd keeps has the size of the values and weights.

    Shapes: values (N, ..., C), float32; weight (D, C); bias (D,); sides (N, ..., D), bool, True where the teacher's
        unit is on; returns the sum of the squared shortfalls divided by `count`, (), and, per sample, the share of
        units on the teacher's side, (N,), without a graph.

    Args:
        values: What is mapped, channels last.
        weight: The weight of the map.
        bias: Its bias.
        sides: The teacher's.
        margin: How far past the boundary counts as safe.
        count: What the sum is divided by.

    Raises:
        RuntimeError: If a second derivative is asked for.
    """
    trained = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (values, weight, bias))
    loss, agreement = _MappedShortfall.apply(  # type: ignore[no-untyped-call]
        values, weight, bias, sides, margin, count, trained
    )
    return loss, agreement


class _MappedShortfall(torch.autograd.Function):
    """The sum of the squared shortfalls behind a map divided by a count, and the agreement; keeps the gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        weight: Tensor,
        bias: Tensor,
        sides: Tensor,
        margin: float,
        count: int,
        trained: bool,
    ) -> tuple[Tensor, Tensor]:
        units, positions = len(weight), math.prod(values.shape[1:-1])
        rows = values.reshape(len(values), positions, values.shape[-1])
        # As numbers: bools are copied to floats one by one.
        split = [parts(tensor, positions * units) for tensor in (rows, sides.view(torch.uint8))]
        most = len(split[0][0]) * positions
        mapped, signs, same = (values.new_empty(most, units) for _ in range(3))
        one, ones = values.new_ones(()), values.new_ones(max(units, most))
        of_values = torch.empty_like(rows, memory_format=torch.contiguous_format)
        of_weight, of_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        total, balances = values.new_zeros((), dtype=torch.float64), []
        transposed = weight.t()
        for given, on, slope in zip(*split, parts(of_values, positions * units), strict=True):
            part = given.flatten(0, 1)
            here, sign, both = (buffer[: len(part)] for buffer in (mapped, signs, same))
            torch.addmm(bias, part, transposed, out=here)
            sign.view(on.shape).copy_(on)
            mirrored(here, sign, out=here)
            # 1 where both are on the same side, -1 elsewhere.
            mirrored(one.expand_as(here), here, out=both)
            balances.append(torch.mv(both, ones[:units]).view(len(on), -1).sum(1))
            here.sub_(margin).clamp_max_(0)
            total += sum_of_squares(here)
            if trained:
                # Half the slope of the summed squares.
                mirrored(here, sign, out=here)
                torch.mm(here, weight, out=slope.view(part.shape))
                of_weight.addmm_(here.t(), part)
                of_bias.addmv_(here.t(), ones[: len(part)])
        per_sample = positions * units
        agreement = (torch.cat(balances) + per_sample) / (2 * per_sample)
        ctx.save_for_backward(of_values.view(values.shape), of_weight, of_bias)
        ctx.scale = 2 / count
        ctx.mark_non_differentiable(agreement)
        return (total / count).to(values.dtype), agreement

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "ActivationBoundary has no second derivative behind a connector, and create_graph=True asks for one. "
                "Leave create_graph out."
            )
        factor = gradients[0] * ctx.scale
        return *(kept * factor for kept in ctx.saved_tensors), None, None, None, None
