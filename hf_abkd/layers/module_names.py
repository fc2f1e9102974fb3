"""Names of modules and of their calls, as users write them: `"layer.relu"`, `"layer.relu:input"`, `"layer:relu#2"`."""

from __future__ import annotations

import difflib
from typing import Literal

from torch import nn

from hf_abkd.layers.call_names import all_names, is_call, parse_call
from hf_abkd.layers.scripted import refuse_scripted_part

_WRAPPER_PREFIXES = ("module.", "_orig_mod.")


def parse_name(model: nn.Module, name: str) -> tuple[str, Literal["input", "output"] | None]:
    """Split `"layer.relu:input"` into a module of the model and the side; the side is None when it is left out.

    The module may be a call of one, or of a function, by a module; see `hf_abkd.layers.call_names`. Prefixes that
    wrappers add (`module.`, `_orig_mod.`) are dropped, unless the model has them itself.

    Raises:
        ValueError: If there is no such module, or what is behind the colon is neither a side nor a call.
    """
    place, colon, side = name.rpartition(":")
    if not colon or side not in ("input", "output"):
        place, side = name, ""
    modules = all_names(model)
    while place.partition(":")[0] not in modules and place.startswith(_WRAPPER_PREFIXES):
        place = place.split(".", 1)[1]
    if is_call(place):
        parse_call(model, place)
    else:
        find_module(model, place)
    if not side:
        return place, None
    return place, "input" if side == "input" else "output"


def find_module(model: nn.Module, name: str) -> nn.Module:
    """Return the module of that name, or of one of its names if it is shared.

    Raises:
        ValueError: If there is none (the message has the closest names), or it is inside of a part in TorchScript.
    """
    modules = all_names(model)
    refuse_scripted_part(modules, name)
    if name and name in modules:
        return modules[name]
    names = [other for other in modules if other]
    # Close by spelling, or with the same last part: a wrong prefix is the usual mistake.
    near = difflib.get_close_matches(name, names, n=5, cutoff=0.5)
    near += [other for other in names if other.endswith("." + name) or name.endswith("." + other)][: 5 - len(near)]
    raise ValueError(
        f"{type(model).__name__} has no module {name!r}; close names: {near}. "
        "List them all with `[name for name, _ in model.named_modules()]`. An activation that is a function, or that "
        "runs several times, goes by its call, such as 'layer:relu#2': `hf-abkd inspect` lists them."
    )
