"""Activations of a model that may overwrite what they are given, as nothing else reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# What `contiguous` and `to` do: for a batch of another size or precision they may return what they were given.
_COPIES = (torch.ops.aten.clone.default, torch.ops.aten._to_copy.default)
_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.Hardswish)


def overwriting(model: nn.Module, run: Callable[[], Iterable[Tensor]]) -> list[str]:
    """Return the names of the activations that do not work in place and could.

    The input of such a one was made during the pass, so that it is neither the batch nor a weight nor anything else
    that the model keeps, and not by a copy, as another batch may need none; no later operation reads it, as a residual
    would; and it is not one of the results. All calls of a module must be so.

    Args:
        model: The model, in eval mode.
        run: Runs the model once, and returns the tensors that are read afterwards.
    """
    names = {part: name for name, part in model.named_modules() if type(part) in _ACTIVATIONS and not part.inplace}
    if not names:
        return []
    uses = _Uses()
    calls: list[tuple[str, StorageWeakRef | None, int]] = []

    def remember(module: nn.Module, given: tuple[Any, ...], _: object) -> None:
        calls.append((names[module], _storage(given[0]) if given else None, uses.count))

    handles = [module.register_forward_hook(remember) for module in names]
    try:
        with uses:
            results = {_storage(tensor) for tensor in run()}
    finally:
        for handle in handles:
            handle.remove()
    read = {
        name
        for name, storage, count in calls
        if storage is None or storage not in uses.made or storage in results or uses.last[storage] > count
    }
    return [name for name in dict.fromkeys(name for name, *_ in calls) if name not in read]


class _Uses(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Which memory operations make, and which of them is the last to read it.

    Held weakly: the memory is given back as always, and no other gets its identity.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.made: set[StorageWeakRef] = set()
        self.last: dict[StorageWeakRef, int] = {}
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self.count += 1
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor):
                self.last[_storage(value)] = self.count
        output = func(*args, **kwargs)
        for value in tree_leaves(output):
            if isinstance(value, Tensor) and (storage := _storage(value)) not in self.last:
                self.last[storage] = self.count
                if func not in _COPIES:
                    self.made.add(storage)
        return output


def _storage(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
