"""Which teacher it is: a digest of its weights, and what else identifies it without a copy."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def fingerprint(model: nn.Module | Mapping[str, Tensor]) -> str:
    """Return a digest of the state of a model, its saved buffers included: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted((model.state_dict() if isinstance(model, nn.Module) else model).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def reference(model: nn.Module) -> dict[str, str]:
    """Return what identifies a teacher without copying it: class, source and fingerprint."""
    config = getattr(model, "config", None)
    return {
        "class": type(model).__name__,
        "name_or_path": str(getattr(config, "_name_or_path", "") or ""),
        "fingerprint": fingerprint(model),
    }
