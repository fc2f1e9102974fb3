"""A linear map and the BatchNorm behind it as one linear map."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hf_abkd.layers.single_values import check_statistics

# Measured on a CPU: with more inputs for an output the statistics cost as much as they save.
_INPUTS_SQUARED_PER_OUTPUT = 4


def pays(inputs: int, outputs: int) -> bool:
    """Whether `normalized_map` is faster than the two layers by themselves, for so many channels in and out.

    The statistics cost `inputs` squared multiplications per position, and save several passes over all outputs.
    """
    return inputs**2 < _INPUTS_SQUARED_PER_OUTPUT * outputs


def normalized_map(values: Tensor, weight: Tensor, norm: Any) -> tuple[Tensor, Tensor]:
    """Return weight (D, C) and bias (D,) of the linear map that equals a linear map followed by BatchNorm.

    Mean and variance of a linear map of some values follow from the mean and the covariance of the values. Where few
    channels become many, as between a narrow student and a wide teacher, the many are then written once, and are
    neither read again for their statistics nor kept for the backward pass. In training the running statistics of
    `norm` move as they do in its own forward pass; in eval mode, and for a single value per channel, which has no
    variance, they are what is used.

    Args:
        values: The input of the linear map, channels last, (..., C).
        weight: Its weight, (D, C); it has no bias.
        norm: The BatchNorm behind it, over D channels.

    Raises:
        TypeError: If `norm` is none that counts over this process alone.
        ValueError: If `norm` is in training mode and there is no value, or one and there are no running statistics.
    """
    if type(norm) not in (nn.BatchNorm1d, nn.BatchNorm2d):
        raise TypeError(f"only a plain BatchNorm can be taken into a linear map, got {norm}")
    with torch.autocast(values.device.type, enabled=False):
        weight = weight.float() if weight.dtype in (torch.float16, torch.bfloat16) else weight
        count = values.numel() // values.shape[-1]
        if norm.training and count == 1:
            check_statistics(norm)
        if norm.training and count != 1:
            mean, variance = _statistics(values.to(weight.dtype).flatten(0, -2), weight)
            _move(norm, mean.detach(), variance.detach(), count)
        else:
            mean, variance = norm.running_mean, norm.running_var
        scale = norm.weight * (variance + norm.eps).rsqrt()
        return weight * scale[:, None], norm.bias - mean * scale


def _statistics(values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance, (D,) each, of a linear map of values (R, C)."""
    if len(values) == 0:
        raise ValueError("BatchNorm needs values in training, got none")
    mean = values.mean(0)
    centred = values - mean
    covariance = centred.T @ centred / len(values)
    # By rounding, what does not vary at all could get a variance below 0.
    return weight @ mean, ((weight @ covariance) * weight).sum(1).clamp(min=0)


@torch.no_grad()
def _move(norm: Any, mean: Tensor, variance: Tensor, count: int) -> None:
    """Move the running statistics towards those of a batch, as torch does."""
    norm.num_batches_tracked.add_(1)
    momentum = 1 / norm.num_batches_tracked.float() if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean, momentum)
    norm.running_var.lerp_(variance * (count / (count - 1)), momentum)
