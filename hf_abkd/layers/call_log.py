"""The log of a forward pass: which activations it calls, and the names that tell these calls apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

from hf_abkd.layers.call_names import call_name
from hf_abkd.layers.calls import Call, Calls
from hf_abkd.layers.module_kinds import is_boundary_activation
from hf_abkd.layers.passed_tensors import only_tensor_or_none, version_of


@dataclass
class _Running:
    """A forward that runs: its call, the one tensor it was given, and which function made an activation of it."""

    call: Call
    given: Tensor | None
    version: int
    function: Call | None = None


@dataclass
class CallLog:
    """Takes in the calls of one forward pass, and says which of them are activations.

    An activation is a module of a known kind, a function of `hf_abkd.layers.activation_functions`, or a module without
    parts that calls such a function with just what it was given: that function is the module's own business.

    Args:
        model: The model.
    """

    model: nn.Module
    modules: dict[str, nn.Module] = field(default_factory=dict)
    #: How often each module ran.
    runs: Counter[str] = field(default_factory=Counter)
    #: How often each module or function was called by each block, in all forwards of it.
    made: Counter[tuple[str, str, bool]] = field(default_factory=Counter)
    #: The activations, in order.
    activations: dict[Call, None] = field(default_factory=dict)
    #: The function behind a module that is an activation by what it calls.
    functions: dict[Call, Call] = field(default_factory=dict)
    #: The functions that a compiler does not show; see `Calls`.
    hidden: set[tuple[str, str, bool]] = field(default_factory=set)
    _running: list[_Running] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Note the names of modules."""
        self.modules = dict(self.model.named_modules())

    def entered(self, call: Call, given: Tensor | None) -> Call | None:
        """Take in a call that begins, with the one tensor that it is given; return the activation that begins so."""
        self.made[call.key] += 1
        if call.is_function:
            return self._function(call, given)
        self.runs[call.called] += 1
        self._leave_to(call.block)
        self._running.append(_Running(call, given, version_of(given)))
        if is_boundary_activation(self.modules[call.called]):
            return self._activation(call)
        return None

    def left(self, call: Call) -> Call | None:
        """Take in that a call is done; return it if it was an activation."""
        if not call.is_function:
            while self._running.pop().call != call:
                pass
        return call if call in self.activations else None

    def total(self, call: Call) -> int:
        """Return how often what a call calls was called in one forward of its block."""
        return self.made[call.key] // max(self.runs[call.block], 1)

    def name(self, call: Call) -> str:
        """Return the name of an activation: that of the module if it ran once, or else that of the call."""
        if not call.is_function and self.runs[call.called] == 1:
            return call.called
        return call_name(self.model, call)

    def repeated(self, call: Call) -> int:
        """Return how often the block of a call ran, if that was not once and the call is not named by its module."""
        once = not call.is_function and self.runs[call.called] == 1
        return 1 if once else self.runs[call.block]

    def calls_of(self, module: str) -> list[Call]:
        """Return the first calls of a module by each of the blocks that call it, with a number for each call."""
        keys = [key for key in self.made if key[1] == module and not key[2]]
        return [
            Call(*key[:2], number + 1, False)
            for key in keys
            for number in range(self.made[key] // max(self.runs[key[0]], 1))
        ]

    def _function(self, call: Call, given: Tensor | None) -> Call | None:
        running = self._running[-1]
        module = self.modules[running.call.called]
        if is_boundary_activation(module):
            return None
        own = given is not None and running.given is given and running.version == version_of(given)
        if own and not module._modules and running.function is None and running.call.called:
            running.function = call
            self.functions[running.call] = call
            return self._activation(running.call)
        return self._activation(call)

    def _activation(self, call: Call) -> Call:
        self.activations.setdefault(call)
        return call

    def _leave_to(self, block: str) -> None:
        """Forget forwards that ended by an exception which the model caught."""
        while self._running and self._running[-1].call.called != block:
            self._running.pop()


def logged(
    model: nn.Module, forward: Callable[[], object], seen: Callable[[CallLog, Call, object], None] | None = None
) -> CallLog:
    """Run a model once, and return the log.

    Args:
        model: The model.
        forward: Runs it.
        seen: Told of each call that is done, with the log so far and what the call returned.
    """
    log = CallLog(model)

    def entered(call: Call, given: object) -> None:
        log.entered(call, only_tensor_or_none(given))

    def left(call: Call, output: object) -> None:
        log.left(call)
        if seen is not None:
            seen(log, call, output)

    calls = Calls(model, entered, left, functions=True, also=None)
    calls.hidden = log.hidden
    calls.attach()
    try:
        with calls.start():
            forward()
    finally:
        calls.stop()
        calls.detach()
    return log
