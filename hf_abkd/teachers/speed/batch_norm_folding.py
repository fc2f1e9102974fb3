"""Folding: the factors of a BatchNorm are multiplied into the weights of the convolution before it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from hf_abkd.layers.capture import CapturePoint
from hf_abkd.teachers.speed.change import Change
from hf_abkd.teachers.speed.comparison import Comparison, Run
from hf_abkd.teachers.speed.copies import FastModel, sharing_copy


def _is_in_full_precision(model: nn.Module, compiled: bool) -> bool:
    """Whether folding suits a model: of weights in half precision the products would be rounded once more."""
    return all(p.dtype in (torch.float32, torch.float64) for p in model.parameters() if p.is_floating_point())


def _fold(current: FastModel, comparison: Comparison) -> tuple[FastModel, str] | None:
    pairs = _pairs(current.model, comparison.run, comparison.points)
    if not pairs:
        return None
    fast = _folded(current.model, pairs)
    return replace(current, model=fast, differentiable=fast), f"{len(pairs)} BatchNorm folded"


BATCH_NORM_FOLDING = Change(_is_in_full_precision, _fold)


def _pairs(model: nn.Module, run: Run, points: Sequence[CapturePoint]) -> list[tuple[str, str]]:
    """Return the names of each convolution and BatchNorm where the one is all that the other sees, in one pass."""
    names = {module: name for name, module in model.named_modules()}
    taken = {str(point) for point in points}
    calls: dict[nn.Module, int] = {}
    # The outputs are kept: of a tensor that is gone, the next one may have the identity.
    outputs: dict[int, tuple[nn.Module, Tensor, int]] = {}
    met: list[tuple[nn.Module, nn.Module]] = []

    def remember(module: nn.Module, _: object, output: Any) -> None:
        calls[module] = calls.get(module, 0) + 1
        if isinstance(output, Tensor):
            outputs[id(output)] = module, output, output._version

    def match(module: nn.Module, given: tuple[Any, ...]) -> None:
        calls[module] = calls.get(module, 0) + 1
        source, output, version = outputs.get(id(given[0]) if given else 0, (None, None, 0))
        # Changed in place since, it would be another tensor.
        if source is not None and output is not None and output._version == version:
            met.append((source, module))

    handles = [module.register_forward_hook(remember) for module in names if _is_convolution(module)]
    handles += [module.register_forward_pre_hook(match) for module in names if _is_batch_norm(module)]
    try:
        run(model, False)
    finally:
        for handle in handles:
            handle.remove()
    seen_by = [source for source, _ in met]
    return [
        (names[source], names[norm])
        for source, norm in met
        if calls[source] == calls[norm] == 1
        and seen_by.count(source) == 1
        and not {f"{names[source]}:output", f"{names[norm]}:input"} & taken
    ]


def _is_convolution(module: nn.Module) -> bool:
    return (
        isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
        # A subclass may standardise its weights; a parametrisation computes them anew in each call, from others.
        and type(module).forward in (nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward)
        and type(module)._conv_forward in (nn.Conv1d._conv_forward, nn.Conv2d._conv_forward, nn.Conv3d._conv_forward)
        and module._parameters.get("weight") is not None
        and module.weight.is_floating_point()
    )


def _is_batch_norm(module: nn.Module) -> bool:
    plain = type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    return plain and module.running_mean is not None and module.running_var is not None


def _folded(model: nn.Module, pairs: Iterable[tuple[str, str]]) -> nn.Module:
    """Return a copy of a model with these BatchNorms folded into their convolutions."""
    fast = sharing_copy(model)
    norms: dict[nn.Module, nn.Module] = {}
    for source, name in pairs:
        convolution, norm = fast.get_submodule(source), fast.get_submodule(name)
        weight, bias = _folded_weights(convolution, norm)
        convolution.weight = nn.Parameter(weight, requires_grad=False)
        convolution.bias = nn.Parameter(bias, requires_grad=False)
        norms[norm] = nn.Identity().eval()
    for parent in fast.modules():
        for name, child in list(parent._modules.items()):
            if child in norms:
                setattr(parent, name, norms[child])
    return fast


def _folded_weights(convolution: Any, norm: Any) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a convolution that does what it and a BatchNorm did; computed in float64."""
    weight: Tensor = convolution.weight

    def exact(tensor: Tensor | None, default: float) -> Tensor:
        # On the CPU: not every accelerator has float64.
        if tensor is None:
            return torch.full((len(weight),), default, dtype=torch.float64)
        return tensor.detach().to("cpu", torch.float64)

    scale = exact(norm.weight, 1) / (exact(norm.running_var, 1) + norm.eps).sqrt()
    bias = (exact(convolution.bias, 0) - exact(norm.running_mean, 0)) * scale + exact(norm.bias, 0)
    scaled = exact(weight, 0) * scale.view(-1, *[1] * (weight.ndim - 1))
    return scaled.to(weight), bias.to(weight)
