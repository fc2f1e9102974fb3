"""Names of modules, as users write them: `"layer.relu"`, `"layer.relu:input"`."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Literal

import torch
from torch import nn

_SCRIPTED = (
    "is compiled to TorchScript (torch.jit), which runs what is inside of it without hooks. Compare the logits alone, "
    "or pass the model that was scripted or traced."
)
_WRAPPER_PREFIXES = ("module.", "_orig_mod.")


def parse_name(model: nn.Module, name: str) -> tuple[str, Literal["input", "output"] | None]:
    """Split `"layer.relu:input"` into a module of the model and the side; the side is None when it is left out.

    Prefixes that wrappers add (`module.`, `_orig_mod.`) are dropped, unless the model has them itself.

    Raises:
        ValueError: If there is no such module, or the part behind the colon is neither `input` nor `output`.
    """
    module, colon, side = name.partition(":")
    modules = dict(model.named_modules())
    while module not in modules and module.startswith(_WRAPPER_PREFIXES):
        module = module.split(".", 1)[1]
    find_module(model, module)
    if not colon:
        return module, None
    if side not in ("input", "output"):
        raise ValueError(f"{name!r} must end in ':input', ':output' or no side at all, not {':' + side!r}")
    return module, "input" if side == "input" else "output"


def find_module(model: nn.Module, name: str) -> nn.Module:
    """Return the module of that name.

    Raises:
        ValueError: If there is none (the message has the closest names), or it is inside of a part in TorchScript.
    """
    modules: dict[str, nn.Module] = dict(model.named_modules())
    _refuse_scripted_part(modules, name)
    if name and name in modules:
        return modules[name]
    names = [other for other in modules if other]
    # Close by spelling, or with the same last part: a wrong prefix is the usual mistake.
    near = difflib.get_close_matches(name, names, n=5, cutoff=0.5)
    near += [other for other in names if other.endswith("." + name) or name.endswith("." + other)][: 5 - len(near)]
    raise ValueError(
        f"{type(model).__name__} has no module {name!r}; close names: {near}. "
        "List them all with `[name for name, _ in model.named_modules()]`."
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


def _refuse_scripted_part(modules: dict[str, nn.Module], name: str) -> None:
    parts = name.split(".")
    outer = [".".join(parts[:count]) for count in range(len(parts) + 1)]
    scripted = next((each for each in outer if isinstance(modules.get(each), torch.jit.ScriptModule)), None)
    if scripted is not None:
        raise ValueError(f"{name!r} cannot be read: {repr(scripted) if scripted else 'the model'} {_SCRIPTED}")
