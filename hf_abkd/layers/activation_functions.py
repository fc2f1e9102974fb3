"""Activation functions: the functions of torch that are activations with a boundary at 0, in every way to call them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import get_overridable_functions

# Their output tells on which side of 0 their input was, as that of the modules of the same names does.
ACTIVATIONS = (
    "relu",
    "relu6",
    "leaky_relu",
    "prelu",
    "rrelu",
    "elu",
    "celu",
    "selu",
    "gelu",
    "silu",
    "mish",
    "hardswish",
    "softplus",
)
# These are activations where they cut at 0.
_CLAMPS = ("clamp", "clip", "clamp_min", "hardtanh")
#: The names of all that is an activation if it is called as a function.
KINDS = (*ACTIVATIONS, "clamp", "hardtanh")


def _ways(name: str) -> Iterator[Any]:
    """Return what calls a function: of torch, of a tensor, as an operator; in place too."""
    for namespace, way in itertools.product((torch, functional, Tensor, torch._C._nn), (name, f"{name}_")):
        if way in vars(namespace) or namespace is Tensor:
            yield getattr(namespace, way, None)
    for way in (name, f"{name}_"):
        operator = getattr(torch.ops.aten, way, None)
        if operator is not None:
            yield operator
            yield from (getattr(operator, overload) for overload in operator.overloads())


#: What each function is: an activation, or something that may be one by what it is given.
_NAMES: dict[Any, str] = {
    function: name
    for name in (*ACTIVATIONS, *_CLAMPS, "sigmoid", "mul", "multiply")
    for function in _ways(name)
    if function is not None
} | {getattr(Tensor, name): "mul" for name in ("__mul__", "__rmul__", "__imul__")}


class ActivationFunctions:
    """Tells which calls of functions are activations, call by call.

    `x * sigmoid(x)` is one, SiLU, if both are the same tensor and it was not changed between the two calls.
    """

    def __init__(self) -> None:
        self._gate: Tensor | None = None
        self._gated: Tensor | None = None
        self._version = 0

    def kind(self, function: Any, positional: Sequence[Any], named: Mapping[str, Any]) -> str | None:
        """Return what kind of activation a call is, before it is made; None if it is none."""
        name = _NAMES.get(function)
        if name in _CLAMPS:
            return _clamp(name, positional, named)
        if name in ("mul", "multiply"):
            return "silu" if self._is_silu(positional) else None
        return None if name == "sigmoid" else name

    def see_output(self, function: Any, positional: Sequence[Any], named: Mapping[str, Any], output: Any) -> None:
        """Remember a gate, which a product may follow."""
        if _NAMES.get(function) == "sigmoid":
            self._gate, self._gated = output, argument(positional, named)
            self._version = _version(self._gated)

    def forget(self) -> None:
        """Keep no tensor."""
        self._gate = self._gated = None

    def _is_silu(self, positional: Sequence[Any]) -> bool:
        if self._gate is None or len(positional) != 2:
            return False
        first, second = positional
        gates = (first is self._gated and second is self._gate) or (first is self._gate and second is self._gated)
        return gates and _version(self._gated) == self._version


def is_hidden(function: Any) -> bool:
    """Whether a compiler does not show calls of a function to a mode of functions (torch 2.13): `torch.relu_`, say."""
    operators = (torch._ops.OpOverload, torch._ops.OpOverloadPacket)
    return not isinstance(function, operators) and function not in _overridable()


@cache
def _overridable() -> frozenset[Any]:
    return frozenset(itertools.chain.from_iterable(get_overridable_functions().values()))


def argument(positional: Sequence[Any], named: Mapping[str, Any]) -> Any:
    """Return what a function is computed of: its first argument."""
    return positional[0] if positional else named.get("input", named.get("self"))


def _clamp(name: str, positional: Sequence[Any], named: Mapping[str, Any]) -> str | None:
    lowest = positional[1] if len(positional) > 1 else named.get("min", named.get("min_val"))
    if isinstance(lowest, (int, float)) and lowest == 0:
        return "hardtanh" if name == "hardtanh" else "clamp"
    return None


def _version(tensor: Tensor | None) -> int:
    # While a graph is traced versions cannot be read.
    readable = tensor is not None and not torch.compiler.is_compiling() and not tensor.is_inference()
    return tensor._version if tensor is not None and readable else 0
