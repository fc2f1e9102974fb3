"""Calls: what the modules of a model call in one forward pass, numbered within each forward of each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from hf_abkd.layers.activation_functions import ActivationFunctions, argument, is_hidden
from hf_abkd.layers.module_kinds import is_boundary_activation
from hf_abkd.layers.scripted import hookable


class Call(NamedTuple):
    """The n-th call of a module, or of an activation function, in one forward of a block.

    Args:
        block: The module whose forward makes the call; empty for the model itself.
        called: The name of the module that is called, or the kind of the function.
        number: The how many-th call of it this is in that forward, from 1.
        is_function: Whether a function is called.
    """

    block: str
    called: str
    number: int
    is_function: bool

    @property
    def key(self) -> tuple[str, str, bool]:
        """What is counted: the calls of one module or function by one block."""
        return self.block, self.called, self.is_function


class Calls:
    """Tell of the calls in a forward pass: of modules by hooks, of activation functions by a mode of torch.

    A compiler traces both, if the hooks are on before. Modules of torch that call nothing, such as convolutions, are
    left alone unless they are named.

    Args:
        model: The model.
        entered: Told of each call before it is made, with what is given to it: its first argument, or the tuple of
            its named ones.
        left: Told of each call when it is done, with what it returned.
        functions: Whether functions are watched too. It costs a call of Python for each function of torch.
        also: Names of modules to watch beside those that can call something; None watches all.
    """

    def __init__(
        self,
        model: nn.Module,
        entered: Callable[[Call, object], None],
        left: Callable[[Call, object], None],
        *,
        functions: bool,
        also: Iterable[str] | None = (),
    ) -> None:
        self.model = model
        #: The keys of calls of functions that a compiler does not show, where it is asked for them.
        self.hidden: set[tuple[str, str, bool]] | None = None
        self.entered = entered
        self.left = left
        self.on = False
        self._functions = ActivationFunctions() if functions else None
        names = None if also is None else set(also)
        self._watched = {
            name: module for name, module in hookable(model) if names is None or name in names or _can_call(module)
        }
        self._handles: list[RemovableHandle] = []
        # Of each forward that runs: its module, its own call, and how often it has called what.
        self._running: list[tuple[str, Call, dict[tuple[str, bool], int]]] = []

    def attach(self) -> None:
        """Put the hooks on."""
        for name, module in self._watched.items():
            self._handles.append(module.register_forward_pre_hook(self._before(name), with_kwargs=True))
            self._handles.append(module.register_forward_hook(self._after(name)))

    def detach(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def start(self) -> AbstractContextManager[object]:
        """Watch from now on, until `stop`; return what the forward pass has to run in."""
        self._running.clear()
        self.on = True
        return nullcontext() if self._functions is None else _Functions(self, self._functions)

    def stop(self) -> None:
        """Watch no longer, and keep no tensor."""
        self.on = False
        self._running.clear()
        if self._functions is not None:
            self._functions.forget()

    def next_call(self, called: str, is_function: bool) -> Call | None:
        """Count a call that the innermost running forward makes; None outside of the model."""
        if not self._running:
            return None
        block, _, counts = self._running[-1]
        number = counts.get((called, is_function), 0) + 1
        counts[called, is_function] = number
        return Call(block, called, number, is_function)

    def _before(self, name: str) -> Callable[..., None]:
        def hook(_: nn.Module, positional: tuple[object, ...], named: dict[str, object]) -> None:
            if not self.on:
                return
            # The model itself is called by nobody.
            call = self.next_call(name, False) or Call("", name, 1, False)
            self._running.append((name, call, {}))
            self.entered(call, positional[0] if positional else tuple(named.values()))

        return hook

    def _after(self, name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: tuple[object, ...], output: object) -> None:
            if not self.on:
                return
            # A forward that ended by an exception that the model caught is still there.
            ended = self._running.pop()
            while ended[0] != name:
                ended = self._running.pop()
            self.left(ended[1], output)

        return hook


class _Functions(TorchFunctionMode):
    """Tell of the calls of activation functions."""

    def __init__(self, calls: Calls, functions: ActivationFunctions) -> None:
        super().__init__()
        self.calls = calls
        self.functions = functions

    def __torch_function__(self, function: Any, _: Any, positional: Any = (), named: Any = None) -> Any:
        named = named or {}
        kind = self.functions.kind(function, positional, named)
        call = None if kind is None else self.calls.next_call(kind, True)
        if call is None:
            output = function(*positional, **named)
            self.functions.see_output(function, positional, named, output)
            return output
        if self.calls.hidden is not None and is_hidden(function):
            self.calls.hidden.add(call.key)
        self.calls.entered(call, argument(positional, named))
        output = function(*positional, **named)
        self.calls.left(call, output)
        return output


def _can_call(module: nn.Module) -> bool:
    """Whether the forward of a module may call an activation, or another module."""
    plain = type(module).__module__.startswith("torch.nn.modules.") and not module._modules
    return not plain or is_boundary_activation(module)
