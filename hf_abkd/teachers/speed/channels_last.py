"""Channels last: images and the weights of convolutions lie with their channels together."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from hf_abkd.teachers.speed.change import Change
from hf_abkd.teachers.speed.comparison import Comparison
from hf_abkd.teachers.speed.copies import FastModel, sharing_copy


def gains_from_channels_last(model: nn.Module) -> bool:
    """Whether a model is of a kind that was measured to be faster so: narrow or depthwise convolutions, on a CPU."""
    spatial = [m for m in model.modules() if isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1]
    narrow = all(m.out_channels <= 256 or m.groups == m.out_channels for m in spatial)
    return narrow and len(spatial) > 1 and all(m.weight.device.type == "cpu" for m in spatial)


def _in_channels_last(model: nn.Module) -> nn.Module:
    """Return a copy of a model with the weights of its convolutions in that form."""
    fast = sharing_copy(model)
    for module in fast.modules():
        weight = module._parameters.get("weight")
        if isinstance(module, nn.Conv2d) and weight is not None:
            module.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last), requires_grad=False)
    return fast


def _make(current: FastModel, comparison: Comparison) -> tuple[FastModel, str]:
    fast = _in_channels_last(current.model)
    return replace(current, model=fast, differentiable=fast, channels_last=True), "channels_last"


CHANNELS_LAST = Change(lambda model, compiled: gains_from_channels_last(model), _make)
