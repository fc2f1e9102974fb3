"""TorchScript: modules in it run what is inside of them without hooks, so no layer of theirs can be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn

_SCRIPTED = (
    "is compiled to TorchScript (torch.jit), which runs what is inside of it without hooks. Compare the logits alone, "
    "or pass the model that was scripted or traced."
)


def hookable(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules whose calls hooks can see, with their names: all but those in TorchScript."""
    for name, module in model.named_modules():
        if not isinstance(module, torch.jit.ScriptModule):
            yield name, module


def refuse_scripted(model: nn.Module, role: str = "model") -> None:
    """Refuse to look for layers in a model that is in TorchScript as a whole.

    Raises:
        ValueError: If it is.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(f"the layers of the {role} cannot be read: it {_SCRIPTED}")


def refuse_scripted_part(modules: Mapping[str, nn.Module], name: str) -> None:
    """Refuse the name of a module that is in TorchScript or inside of a part that is.

    Raises:
        ValueError: If it is.
    """
    parts = name.split(".")
    outer = [".".join(parts[:count]) for count in range(len(parts) + 1)]
    scripted = next((each for each in outer if isinstance(modules.get(each), torch.jit.ScriptModule)), None)
    if scripted is not None:
        raise ValueError(f"{name!r} cannot be read: {repr(scripted) if scripted else 'the model'} {_SCRIPTED}")
