"""The tensors in what a module or a function takes or gives."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


def only_tensor(value: object, name: str, model: nn.Module) -> Tensor:
    """Return the one tensor in what a module took or gave.

    Raises:
        RuntimeError: If there is none, or more than one.
    """
    tensors = tensors_in(value)
    if len(tensors) == 1:
        return tensors[0]
    raise RuntimeError(
        f"{name!r} of {type(model).__name__} holds {len(tensors)} tensors, and one is needed ({type(value).__name__}). "
        "Name a module inside it, such as its last activation or normalisation."
    )


def only_tensor_or_none(value: object) -> Tensor | None:
    """Return the one tensor in what a module took or gave; None if there is none, or more than one."""
    tensors = tensors_in(value)
    return tensors[0] if len(tensors) == 1 else None


def tensors_in(value: object) -> list[Tensor]:
    """Return the tensors in what a module took or gave: itself, or the members of a list, a tuple or a mapping."""
    parts = list(value.values()) if isinstance(value, Mapping) else value
    return [part for part in (parts if isinstance(parts, (tuple, list)) else [parts]) if isinstance(part, Tensor)]


def version_of(tensor: Tensor | None) -> int:
    """Return how often a tensor was changed in place; 0 where that is not counted."""
    return 0 if tensor is None or tensor.is_inference() else tensor._version
