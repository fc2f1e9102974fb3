"""Names of calls: `"layer2.1:relu#2"` is the second call of `relu` in one forward of the module `layer2.1`.

What is called goes by the name that the calling module has for it; a module that lies elsewhere by its whole name
behind a slash (`"layer2.1:/act#1"`); a function by its own name (`relu` for `torch.relu`, `F.relu_` and so on), or with
`F.` before it where the calling module has a part of that name (`"layer2.1:F.relu#1"`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import NamedTuple

from torch import nn

from hf_abkd.layers.activation_functions import KINDS
from hf_abkd.layers.calls import Call
from hf_abkd.layers.scripted import refuse_scripted_part

_FUNCTION = "F."
_ELSEWHERE = "/"


class NamedCall(NamedTuple):
    """What the name of a call says.

    Args:
        call: The call.
        only: Whether it was named without its number, as the only one.
    """

    call: Call
    only: bool


def all_names(model: nn.Module) -> dict[str, nn.Module]:
    """Return every module by every name that it goes by; one that is shared has several."""
    return dict(_named(model, "", ()))


def _named(module: nn.Module, name: str, above: tuple[nn.Module, ...]) -> Iterator[tuple[str, nn.Module]]:
    yield name, module
    for key, child in module._modules.items():
        # A module may hold one that holds it.
        if child is not None and child is not module and child not in above:
            yield from _named(child, f"{name}.{key}" if name else key, (*above, module))


def call_name(model: nn.Module, call: Call) -> str:
    """Return the name of a call, with its number."""
    block = model.get_submodule(call.block)
    if call.is_function:
        called = _FUNCTION + call.called if call.called in all_names(block) else call.called
    else:
        target = model.get_submodule(call.called)
        own = [name for name, module in all_names(block).items() if module is target and name]
        called = min(own, key=lambda name: name.count(".")) if own else _ELSEWHERE + call.called
    return f"{call.block}:{called}#{call.number}"


def is_call(name: str) -> bool:
    """Whether a name, without a side behind it, is that of a call."""
    return ":" in name


def parse_call(model: nn.Module, name: str) -> NamedCall:
    """Return the call that a name stands for; whether there is such a call shows in a forward pass.

    Raises:
        ValueError: If a module in it does not exist, no activation function is called so, or the number is none.
    """
    block_name, _, rest = name.partition(":")
    called, numbered, number = rest.partition("#")
    names = all_names(model)
    refuse_scripted_part(names, block_name)
    if block_name not in names:
        near = difflib.get_close_matches(block_name, [other for other in names if other], n=5, cutoff=0.5)
        raise ValueError(
            f"{type(model).__name__} has no module {block_name!r}, which {name!r} names as the caller; close names: "
            f"{near}. The model itself has the empty name: ':{rest}'."
        )
    if numbered and not (number.isdecimal() and int(number) > 0):
        raise ValueError(f"{name!r} must end in the number of a call, '#1' for the first, not '#{number}'")
    block = names[block_name]
    canonical = {module: other for other, module in model.named_modules()}
    count = int(number) if numbered else 1
    inside = all_names(block)
    if called and called in inside:
        call = Call(canonical[block], canonical[inside[called]], count, False)
    elif called.startswith(_ELSEWHERE) and called.removeprefix(_ELSEWHERE) in names:
        call = Call(canonical[block], canonical[names[called.removeprefix(_ELSEWHERE)]], count, False)
    elif called.removeprefix(_FUNCTION) in KINDS:
        call = Call(canonical[block], called.removeprefix(_FUNCTION), count, True)
    else:
        parts = [other for other in inside if other]
        near = difflib.get_close_matches(called, dict.fromkeys([*parts, *KINDS]), n=5, cutoff=0.5)
        raise ValueError(
            f"{name!r} must end in ':input', ':output' or no side, or name behind the colon what "
            f"{block_name or type(model).__name__!r} calls: one of its modules, or a function ({', '.join(KINDS)}); "
            f"close names: {near}"
        )
    return NamedCall(call, not numbered)
