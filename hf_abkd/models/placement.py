"""Placement: where the weights of a model lie, if that is not one device that it can be moved from."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def is_dispatched(model: nn.Module) -> bool:
    """Whether hooks of accelerate bring inputs to its parts, or weights to their devices, as `device_map` has it."""
    return any("_hf_hook" in vars(part) for part in model.modules())


def is_sharded(model: nn.Module) -> bool:
    """Whether each process holds a part of its weights alone, as after `torch.distributed.fsdp.fully_shard`."""
    return any(isinstance(part, FSDPModule) for part in model.modules())


def class_of(model: nn.Module) -> type[nn.Module]:
    """Return the class of a model; of one that was sharded the one that it had before."""
    kinds = (kind for kind in type(model).__mro__ if not issubclass(kind, FSDPModule))
    return next(kind for kind in kinds if issubclass(kind, nn.Module))


def is_quantized(model: nn.Module) -> bool:
    """Whether it was loaded with a quantisation of transformers."""
    return getattr(model, "hf_quantizer", None) is not None


def is_tensor_parallel(model: nn.Module) -> bool:
    """Whether all processes compute each layer together, as with a `tp_plan`, and so need the same images."""
    return not is_sharded(model) and any(isinstance(tensor, DTensor) for tensor in model.parameters())


def keep_stored_bits(model: nn.Module) -> None:
    """Have layers of bitsandbytes in 4 bits compute with what was stored.

    On a CPU with bfloat16 (bitsandbytes 0.50) the first pass in eval mode rounds their scales and packs their weights,
    and `state_dict` packs them out again: each of them leaves another model.
    """
    for part in model.modules():
        if "support_avx512bf16_for_cpu" in vars(part):
            vars(part)["support_avx512bf16_for_cpu"] = False


def needs_whole_passes(parts: Iterable[nn.Module]) -> bool:
    """Whether what runs after a layer cannot be left out: hooks put its weights away, or processes wait for it.

    Args:
        parts: All modules of a model.
    """
    return any("_hf_hook" in vars(part) or isinstance(part, FSDPModule) for part in parts)


def put_on(model: nn.Module, device: torch.device | str) -> nn.Module:
    """Move a model to a device, and return it; one that was placed otherwise stays where it is."""
    if needs_whole_passes(model.modules()):
        return model
    tensors = (*model.parameters(), *model.buffers())
    if any(tensor.device != torch.device(device) for tensor in tensors):
        model.to(device)
    return model


def device_of(model: nn.Module) -> torch.device:
    """Return the device that a model takes its images on; one that hooks bring inputs to takes them anywhere."""
    hooks = [hook for part in model.modules() for hook in _hooks_of(part)]
    devices = [hook.execution_device for hook in hooks if getattr(hook, "execution_device", None) is not None]
    if devices:
        return torch.empty(0, device=devices[0]).device
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def without_values(model: nn.Module) -> list[str]:
    """Return the names of the tensors that have no values anywhere: those that are put away have them."""
    tensors = itertools.chain(model.named_parameters(), model.named_buffers())
    return [name for name, tensor in tensors if tensor.is_meta and _put_away(model, name) is None]


def held_tensor(model: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """Return a tensor of a model with all of its values, also if they were put away or lie in several processes.

    Of a model in parts all processes have to call it, for the same tensors in the same order.

    Args:
        model: The model.
        name: The name of the tensor in it.
        tensor: What it holds under this name.
    """
    if isinstance(tensor, DTensor):
        whole: Tensor = tensor.full_tensor()
        return whole
    place = _put_away(model, name) if tensor.is_meta else None
    return tensor if place is None else place[0][place[1]]


def check_readable(part: nn.Module, whose: str) -> None:
    """Refuse a module whose weights have to be read, and cannot be as they are.

    Args:
        part: The module.
        whose: What it is, the beginning of a sentence.

    Raises:
        ValueError: If its weights are put away between passes, lie in several processes, or are quantised.
    """
    tensors = (*part.parameters(), *part.buffers())
    if any(t.is_meta or isinstance(t, DTensor) or is_traceable_wrapper_subclass(t) for t in tensors) or any(
        not parameter.is_floating_point() for parameter in part.parameters()
    ):
        raise ValueError(
            f"{whose} is read by an objective, and its weights are put away between passes, lie in parts in the "
            "processes, or are quantised: leave it out of the offloading, the sharding or the quantisation"
        )


def _put_away(model: nn.Module, name: str) -> tuple[Mapping[str, Tensor], str] | None:
    """Return where a hook of accelerate keeps a tensor, on the CPU or on disk, and its name there; or None."""
    path = name.split(".")
    for depth in range(len(path) - 1, -1, -1):
        for hook in _hooks_of(model.get_submodule(".".join(path[:depth]))):
            covers = depth == len(path) - 1 or getattr(hook, "place_submodules", False)
            if covers and getattr(hook, "offload", False) and hook.weights_map is not None:
                return hook.weights_map, ".".join(path[depth:])
    return None


def _hooks_of(part: nn.Module) -> Sequence[Any]:
    """Return the hooks of accelerate on a module."""
    hook = vars(part).get("_hf_hook")
    return () if hook is None else getattr(hook, "hooks", (hook,))
