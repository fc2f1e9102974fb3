"""How a model's weights lie in memory while it trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from hf_abkd.teachers.speed.channels_last import gains_from_channels_last


def takes_channels_last(model: nn.Module, wanted: bool | None) -> bool:
    """Whether a model trains with its channels together in memory: as it is wanted or, by None, where it gains."""
    return gains_from_channels_last(model) if wanted is None else wanted


@contextmanager
def in_channels_last(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Keep the weights of a model with their channels together meanwhile, if that is wanted; afterwards as always."""
    if not wanted:
        yield
        return
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        yield
    finally:
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
