"""What is put back as it was: modes, gradients, buffers of a module, and the random states of the process."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from hf_abkd.models.placement import device_of


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Put the random states of Python, numpy and torch (the CPU's and the current GPU's) back afterwards."""
    python, array = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)


@contextmanager
def modes_kept(module: nn.Module) -> Iterator[None]:
    """Put every part of a module back in its own mode afterwards."""
    # What torch.jit.freeze made has no mode.
    modes = [(part, part.training) for part in module.modules() if getattr(part, "training", None) is not None]
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module in eval mode, and every part of it back in its own mode afterwards."""
    with modes_kept(module):
        module.eval()
        yield


@contextmanager
def gradients_kept(module: nn.Module) -> Iterator[None]:
    """Put back afterwards which parameters of a module are trained."""
    wanted = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    try:
        yield
    finally:
        for parameter, trained in wanted:
            parameter.requires_grad_(trained)


def freeze(module: nn.Module) -> None:
    """Train no parameter of a module; in TorchScript too, which has no `requires_grad_`."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Hold a module in eval mode without gradients of its parameters, and put both back afterwards."""
    with evaluating(module), gradients_kept(module):
        freeze(module)
        yield


@contextmanager
def buffers_kept(module: nn.Module) -> Iterator[None]:
    """Put the buffers of a module back afterwards: their contents, and the tensors themselves."""
    contents = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    # A buffer may also be replaced by another tensor: `self.center = ...`.
    buffers = [(part._buffers, dict(part._buffers)) for part in module.modules()]
    try:
        yield
    finally:
        for of_part, before in buffers:
            of_part.clear()
            of_part.update(before)
        with torch.no_grad():
            for buffer, content in contents:
                buffer.copy_(content)


@contextmanager
def leaving_no_trace(module: nn.Module) -> Iterator[None]:
    """Put back the modes and buffers of a module, and the random states of torch that it draws from."""
    device = device_of(module)
    forked = torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type)
    with forked, modes_kept(module), buffers_kept(module):
        yield
