"""What to say of a module or a call that does not stand for one tensor of a forward pass, and what to name instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from hf_abkd.layers.call_log import logged
from hf_abkd.layers.call_names import call_name
from hf_abkd.layers.calls import Call
from hf_abkd.wording import listed

# What torch.compile (of torch 2.13) does not show to a mode of functions; what is resolved by a pass knows of them.
_UNSEEN = ". A compiler does not show functions such as torch.relu_ and functional.hardswish."
_OTHERWISE = ". Name calls in blocks that make as many in every pass, in training too."
_ONCE = "Name a module that is called once, such as the normalisation next to it."


def why_not_one(
    model: nn.Module,
    named: nn.Module | Call,
    count: int,
    made: int,
    expected: int | None,
    forward: Callable[[], Any],
) -> str:
    """Return what is wrong with what was called in a forward pass, and what to do; it follows the name.

    Args:
        model: The model.
        named: The module of it that was named, or the call.
        count: How often it was called, or made.
        made: How many calls there were that differ from a call in their number alone, itself included.
        expected: How many there must be; None if that is not known, and of a module.
        forward: Runs the model.
    """
    compiling = torch.compiler.is_compiling()
    if count == 1 or (count == 0 and made):
        return (
            f"was one of {expected or 'several'} such calls, and this forward pass makes {made}, so "
            f"its number may be that of another one{_UNSEEN if compiling else _OTHERWISE}"
        )
    if count == 0:
        why = "was not called, or was called inside a part that was compiled before the hooks were put on, in one "
        if isinstance(named, Call):
            return f"{why}forward pass{_UNSEEN if compiling else '. `hf-abkd inspect` lists the calls.'}"
        return f"{why}forward pass. {_ONCE}"
    if isinstance(named, Call):
        return (
            f"was made {count} times in one forward pass, as {named.block!r} runs that often with the same weights, so "
            "its tensor is not one tensor. Name a module outside of it."
        )
    names = [] if compiling else _names_of_calls(model, named, forward)
    remedy = f"Name one of its calls: {listed(names, 12)}." if names else _ONCE
    return f"was called {count} times, so its tensor is not one tensor in one forward pass. {remedy}"


def _names_of_calls(model: nn.Module, called: nn.Module, forward: Callable[[], Any]) -> list[str]:
    """Return the names of the calls of a module, from one more pass; none if its callers run several times."""
    log = logged(model, forward)
    modules = {module: name for name, module in model.named_modules()}
    calls = log.calls_of(modules[called])
    return [call_name(model, call) for call in calls if log.runs[call.block] == 1]
