"""Points: the tensors that names stand for, and of a boundary the tensor before its activation."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from hf_abkd.layers.call_log import CallLog, logged
from hf_abkd.layers.call_names import all_names, call_name, is_call, parse_call
from hf_abkd.layers.calls import Call
from hf_abkd.layers.capture import CapturePoint
from hf_abkd.layers.module_kinds import is_boundary_activation
from hf_abkd.layers.module_names import find_module, parse_name
from hf_abkd.layers.passed_tensors import only_tensor, tensors_in, version_of


def resolve_boundaries(
    model: nn.Module, names: Iterable[str], forward: Callable[[], object]
) -> dict[str, CapturePoint]:
    """Find, for every name, the tensor before the activation that the name stands for.

    A name with a side is taken as it is. An activation stands for its input. Any other module stands for the input of
    the activation, inside it, whose output is the module's output.

    Args:
        model: The model.
        names: Names as users write them.
        forward: Runs the model once.

    Raises:
        ValueError: If there is no such module or call, or its output does not come from an activation.
    """
    return _resolved(model, names, forward, boundary=True)


def resolve_tensors(model: nn.Module, names: Iterable[str], forward: Callable[[], object]) -> dict[str, CapturePoint]:
    """Find, for every name, the tensor that it stands for: without a side the output of the module or call.

    Args:
        model: The model.
        names: Names as users write them.
        forward: Runs the model once.

    Raises:
        ValueError: If there is no such module or call.
    """
    return _resolved(model, names, forward, boundary=False)


def _resolved(
    model: nn.Module, names: Iterable[str], forward: Callable[[], object], *, boundary: bool
) -> dict[str, CapturePoint]:
    points: dict[str, CapturePoint] = {}
    later: dict[str, tuple[str, Literal["input", "output"] | None]] = {}
    shared = _shared(model)
    for name in dict.fromkeys(names):
        place, side = parse_name(model, name)
        shown = is_call(place) or place in shared
        container = (
            boundary and side is None and not (is_call(place) or is_boundary_activation(find_module(model, place)))
        )
        if shown or container:
            later[name] = place, side
        else:
            points[name] = CapturePoint(place, side or ("input" if boundary else "output"))
    if later:
        # What calls are made, and where an output comes from, shows in a forward pass.
        seen = _Seen.of(model, forward)
        for name, (place, side) in later.items():
            points[name] = seen.point(place, side, boundary=boundary)
    return {name: points[name] for name in dict.fromkeys(names)}


def _shared(model: nn.Module) -> set[str]:
    """Return the names of the modules that go by several."""
    names = all_names(model)
    counts = Counter(names.values())
    return {name for name, module in names.items() if counts[module] > 1}


@dataclass
class _Seen:
    """What one forward pass showed of a model: its calls, and what each of them returned."""

    model: nn.Module
    log: CallLog
    outputs: dict[Call, tuple[object, int]] = field(default_factory=dict)
    #: Modules that are activations by the function they call, and return something else than what it gave.
    changed: set[Call] = field(default_factory=set)

    @classmethod
    def of(cls, model: nn.Module, forward: Callable[[], object]) -> _Seen:
        """Run a model once."""
        outputs: dict[Call, tuple[object, int]] = {}
        changed: set[Call] = set()

        def remember(log: CallLog, call: Call, output: object) -> None:
            outputs[call] = output, sum(version_of(tensor) for tensor in tensors_in(output))
            function = outputs.get(log.functions.get(call, call), (None, 0))
            if function[0] is not output or function[1] != outputs[call][1]:
                changed.add(call)

        return cls(model, logged(model, forward, remember), outputs, changed)

    def point(self, place: str, side: Literal["input", "output"] | None, *, boundary: bool) -> CapturePoint:
        """Return what a call, a module of several names, or the end of a module stands for."""
        if is_call(place):
            call = self._made(place, *parse_call(self.model, place))
            if boundary and side is None and call not in self.log.activations:
                raise ValueError(
                    f"{place!r} of {type(self.model).__name__} calls no activation, so it has no activation boundary. "
                    f"If it takes or gives a response before an activation, write '{place}:input' or '{place}:output'."
                )
            return self._point(call, side or ("input" if boundary else "output"))
        module = find_module(self.model, place)
        name = next(name for name, other in self.model.named_modules() if other is module)
        owners = self._as_owner_calls(place, name) if place in _shared(self.model) else None
        if owners is not None:
            return self._point(owners, side or ("input" if boundary else "output"))
        if not boundary or side is not None or is_boundary_activation(module):
            return CapturePoint(name, side or ("input" if boundary else "output"))
        return self._point(self._activation_behind(name), "input")

    def _point(self, call: Call, side: Literal["input", "output"]) -> CapturePoint:
        return point_of(self.model, self.log, call, side)

    def _made(self, place: str, call: Call, only: bool) -> Call:
        """Return a call that was named, if there is such a one.

        Raises:
            ValueError: If there is none, or it was named without a number and there are several.
        """
        total = self.log.total(call)
        numbered = [call_name(self.model, call._replace(number=number + 1)) for number in range(total)]
        who = type(self.model).__name__
        if self.log.runs[call.block] > 1 and not (self.log.runs[call.called] == 1 and not call.is_function):
            raise ValueError(
                f"{call.block!r} of {who} runs {self.log.runs[call.block]} times in one forward pass with the same "
                f"weights, so {place!r} is not one tensor. Name a module outside of it."
            )
        if only and total > 1:
            raise ValueError(f"{place!r} of {who} is called {total} times; name one of its calls: {numbered}")
        if call.number <= total:
            # A function that is all of an activation module goes by the module.
            return next((module for module, function in self.log.functions.items() if function == call), call)
        names = [self.log.name(activation) for activation in self.log.activations]
        near = numbered or difflib.get_close_matches(place, names, n=5, cutoff=0.5)
        near = list(dict.fromkeys([*near, *(name for name in names if name.startswith(f"{call.block}:"))]))[:8]
        raise ValueError(
            f"{who} makes no call {place!r} in one forward pass; close names: {near}. `hf-abkd inspect` lists them."
        )

    def _as_owner_calls(self, place: str, name: str) -> Call | None:
        """Return the one call of a shared module by the module that has it by this name, if there is just one."""
        owner, _, _ = place.rpartition(".")
        names = all_names(self.model)
        block = next(other for other, module in self.model.named_modules() if module is names[owner])
        call = Call(block, name, 1, False)
        return call if self.log.total(call) == 1 == self.log.runs[block] else None

    def _activation_behind(self, name: str) -> Call:
        """Return the activation, inside a module, whose output is that of the module."""
        ends = [call for call in self.outputs if call.called == name and not call.is_function]
        value, version = self.outputs[ends[-1]] if ends else (None, 0)
        output = only_tensor(value, name, self.model)
        inside = [
            call
            for call in self.log.activations
            if f"{call.block}.".startswith(f"{name}.") or (call.called == name and not call.is_function)
        ]
        matches = [call for call in inside if self._gave(call, output, version)]
        if len(matches) != 1:
            names = [self.log.name(call) for call in inside]
            raise ValueError(
                f"the output of {name!r} of {type(self.model).__name__} does not come straight from an activation, so "
                f"it has no activation boundary. Name one of the activations in it: {names[-8:]}; or, if it is a "
                f"response before an activation itself, write '{name}:output'."
            )
        return matches[0]

    def _gave(self, call: Call, output: Tensor, version: int) -> bool:
        """Whether an activation returned this tensor, and it is as it was: a sum into it gives another response."""
        value, then = self.outputs[call]
        return value is output and then == version and call not in self.changed


def point_of(model: nn.Module, log: CallLog, call: Call, side: Literal["input", "output"]) -> CapturePoint:
    """Return a tensor of a call: of the module that is called, if that ran once."""
    name = log.name(call)
    return CapturePoint(name, side, log.total(call) if is_call(name) else None, call.key in log.hidden)
