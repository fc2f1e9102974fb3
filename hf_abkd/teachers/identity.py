"""Which teacher it is: a digest of its weights, and what else identifies it without a copy."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from hf_abkd.models.placement import class_of, held_tensor
from hf_abkd.wording import public_name


def fingerprint(model: nn.Module | Mapping[str, Any]) -> str:
    """Return a digest of the state of a model, its saved buffers included: names, types, shapes and bytes.

    What is no tensor counts too: packed weights in 8 bits, and the extra state of a module. Of an object that is
    neither a number, a text nor made of such, only the type counts. Where weights lie makes no difference: of a model
    in parts all processes have to call it.
    """
    digest = hashlib.sha256()
    for name, value in sorted((model.state_dict() if isinstance(model, nn.Module) else model).items()):
        if isinstance(model, nn.Module) and isinstance(value, Tensor):
            value = held_tensor(model, name, value)
        _add(digest, name, value)
    return digest.hexdigest()


def _add(digest: hashlib._Hash, name: str, value: object) -> None:
    """Take a value into a digest, by its name."""
    if isinstance(value, Tensor):
        _add_tensor(digest, name, value.detach())
    elif isinstance(value, Mapping):
        for key in value:
            _add(digest, f"{name}[{key!r}]", value[key])
    elif isinstance(value, (list, tuple)):
        for index, each in enumerate(value):
            _add(digest, f"{name}[{index}]", each)
    elif isinstance(value, np.ndarray):
        _add(digest, name, value.tolist())
    elif value is None or isinstance(value, (bool, int, float, str, bytes, torch.dtype)):
        digest.update(f"{name} {value!r};".encode())
    else:
        digest.update(f"{name} {type(value).__qualname__};".encode())


def _add_tensor(digest: hashlib._Hash, name: str, tensor: Tensor) -> None:
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
    if is_traceable_wrapper_subclass(tensor):
        # A quantised tensor of torchao: several plain ones.
        inner: Any = tensor
        for part in inner.__tensor_flatten__()[0]:
            _add(digest, f"{name}.{part}", getattr(tensor, part))
        return
    if tensor.is_quantized:
        _add(digest, f"{name}.scheme", str(tensor.qscheme()))
        if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
            _add(digest, f"{name}.scale", [tensor.q_scale(), tensor.q_zero_point()])
        else:
            _add(digest, f"{name}.scales", [tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()])
        tensor = tensor.int_repr()
    digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def reference(model: nn.Module) -> dict[str, str]:
    """Return what identifies a teacher without copying it: class, source and fingerprint; nothing that is private."""
    config = getattr(model, "config", None)
    return {
        "class": class_of(model).__name__,
        "name_or_path": public_name(str(getattr(config, "_name_or_path", "") or "")),
        "fingerprint": fingerprint(model),
    }
