"""Capture: named tensors of a model (the input or output of a module, or of one call) during one forward pass.

A capture cannot lie: a wrong name, a module or call that gave no tensor or several, another number of calls than when
they were named, and a tensor that was overwritten in place after it was captured are errors, and nothing is kept when
the forward pass is over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hf_abkd.boundaries.sides import above_zero
from hf_abkd.layers.call_names import is_call, parse_call
from hf_abkd.layers.calls import Call, Calls
from hf_abkd.layers.module_names import find_module
from hf_abkd.layers.passed_tensors import only_tensor
from hf_abkd.layers.sums import row_sums
from hf_abkd.layers.uncompiled import Uncompiled
from hf_abkd.layers.wrong_calls import why_not_one
from hf_abkd.models.placement import needs_whole_passes


@dataclass(frozen=True)
class CapturePoint:
    """One tensor of a forward pass: the input or the output of a named module, or of a call.

    Args:
        module: The name of the module, or of the call (`"layer2.1:relu#2"`).
        side: Which of the two.
        calls: How many calls there are that differ from it in their number alone, where that is known. With more or
            fewer of them the number would mean another one, which is an error.
        hidden: Whether a compiler does not show the call, so that the module that makes it is not compiled.
    """

    module: str
    side: Literal["input", "output"]
    calls: int | None = field(default=None, compare=False)
    hidden: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        return f"{self.module}:{self.side}"


class NotOneTensorError(RuntimeError):
    """A name does not stand for just one tensor of a forward pass."""


class _Complete(BaseException):
    """Ends a forward pass when all is recorded. No `except Exception` in a model catches it."""

    def __init__(self, capture: Capture) -> None:
        super().__init__("all tensors are recorded")
        self.capture = capture


class Capture:
    """Record the tensors at some points of a model during one forward pass.

    Use it as a context manager, or call `attach` and `detach`; call `run` for a forward pass. Hooks must be attached
    before the model is compiled: a compiled module silently ignores later ones.

    What is recorded under `torch.inference_mode` is a copy, and a tensor like any other: autograd may save it. Tensors
    made there do not count how often they are changed, and a copy that nothing else holds needs no such count. The
    same holds of signs, which are new tensors in any mode.

    Args:
        model: The model, not wrapped and not compiled.
        points: What to record.
        overwritten: Those of the points whose tensors a later operation overwrites, as an earlier `probe` found.
        signs: Those of the points of which only the side of 0 is recorded: a bool tensor, True above 0. What is not a
            number has a side like any other, so the sums of their rows are kept.

    Attributes:
        sums: Of each of `signs`, the sum of each row in the last pass, (N,), not finite where a response was not.

    Raises:
        ValueError: If a point names a module that the model does not have.
        TypeError: If the model is compiled already.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> before_relu = CapturePoint("1", "input")
        >>> with Capture(model, [before_relu]) as capture:
        ...     output, tensors = capture.run(lambda: model(torch.ones(4, 2)))
        >>> tensors[before_relu].shape
        torch.Size([4, 3])
    """

    def __init__(
        self,
        model: nn.Module,
        points: Iterable[CapturePoint],
        overwritten: Iterable[CapturePoint] = (),
        signs: Iterable[CapturePoint] = (),
    ) -> None:
        refuse_compiled(model)
        self.model = model
        self.points = tuple(dict.fromkeys(points))
        self.overwritten = set(overwritten)
        if any(point.hidden for point in self.points):
            # Around a part that is not compiled, versions are counted in one half of a pass and not in the other.
            self.overwritten.update(self.points)
        self.signs = frozenset(signs)
        self._parts = tuple(model.modules())
        self._modules = {point: find_module(model, point.module) for point in self.points if not is_call(point.module)}
        named = {point: parse_call(model, point.module) for point in self.points if is_call(point.module)}
        self._named = {point: call for point, (call, _) in named.items()}
        #: How many calls there must be, beside each that was named.
        self._expected = {point: 1 if only else point.calls for point, (_, only) in named.items()}
        self._calls = None
        if named:
            called = {call.called for call in self._named.values() if not call.is_function}
            functions = any(call.is_function for call in self._named.values())
            self._calls = Calls(model, self._call_entered, self._call_left, functions=functions, also=called)
        self._handles: list[RemovableHandle] = []
        self._uncompiled: list[Uncompiled] = []
        # torch.compile cannot trace a look at the handles.
        self._attached = False
        self._armed = False
        self._stopping = False
        # The blocks whose calls are numbered, and those of them that have not run yet in a pass.
        self._numbered = {self._named[point].block for point, calls in self._expected.items() if calls is not None}
        self._pending: set[str] = set()
        self.sums: dict[CapturePoint, Tensor] = {}
        self._tensors: dict[CapturePoint, Tensor] = {}
        self._versions: dict[CapturePoint, int] = {}
        self._counts: dict[CapturePoint, int] = {}
        self._made: dict[tuple[str, str, bool], int] = {}

    def attach(self) -> Capture:
        """Put the hooks on."""
        if not self._attached:
            for point, module in self._modules.items():
                if point.side == "input":
                    handle = module.register_forward_pre_hook(self._input_hook(point), with_kwargs=True)
                else:
                    handle = module.register_forward_hook(self._output_hook(point))
                self._handles.append(handle)
            if self._calls is not None:
                self._calls.attach()
            blocks = [self._named[point].block for point in self.points if point.hidden]
            self._uncompiled = [Uncompiled(self.model.get_submodule(block)) for block in dict.fromkeys(blocks)]
        self._attached = True
        return self

    def detach(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        for part in self._uncompiled:
            part.remove()
        self._uncompiled.clear()
        self._handles.clear()
        if self._calls is not None:
            self._calls.detach()
        self._attached = False

    __enter__ = attach

    def __exit__(self, *_: object) -> None:
        self.detach()

    def probe(self, forward: Callable[[], object]) -> dict[CapturePoint, Tensor]:
        """Run one forward pass to learn which tensors a later operation overwrites; those are copied from now on.

        An in-place activation or residual sum would otherwise leave, say, no negative value in a pre-activation.
        Returns the tensors of that pass, right even where they were overwritten.
        """
        self._run(forward)
        self.overwritten |= self._changed()
        self._clear()
        return self.run(forward)[1]

    def run(self, forward: Callable[[], Any], *, stop: bool = False) -> tuple[Any, dict[CapturePoint, Tensor]]:
        """Run one forward pass; return what it returned and the tensors it passed.

        Args:
            forward: Runs the model.
            stop: End the pass when the last tensor is recorded, and the blocks whose calls are numbered are done; the
                output is then None. The pass goes on to its end where its rest cannot be left out: while a graph is
                traced (a compiler drops what is not used), under hooks of accelerate, which put the weights of a layer
                away after its call, and where processes hold parts of a model and wait for each other.

        Raises:
            RuntimeError: If a named module or call gave no tensor, was called twice, or its tensor was overwritten; or
                if there are more or fewer calls than when they were named. What is called or overwritten after a stop
                is not seen, and the tensors are right without it.
        """
        self._stopping = stop and not torch.compiler.is_compiling() and not needs_whole_passes(self._parts)
        try:
            output = self._run(forward)
        finally:
            self._stopping = False
        if stop:
            output = None
        # Versions cannot be read while a graph is traced; it works on copies.
        if not torch.compiler.is_compiling() and (overwritten := self._changed()):
            self._clear()
            raise RuntimeError(
                f"the tensors at {sorted(map(str, overwritten))} of {type(self.model).__name__} were overwritten in "
                "place after they were captured. Call `probe` with a forward pass first: it finds and copies them. If "
                "they are overwritten in training mode only (an in-place dropout), set `inplace=False` there."
            )
        tensors = {point: self._tensors[point] for point in self.points}
        self._clear()
        return output, tensors

    def _run(self, forward: Callable[[], Any]) -> Any:
        if self.points and not self._attached:
            raise RuntimeError("call `attach` before `run`: without hooks nothing would be captured")
        self._clear()
        self._armed = True
        self._pending = set(self._numbered)
        output = None
        try:
            with nullcontext() if self._calls is None else self._calls.start():
                output = forward()
        except _Complete as complete:
            if complete.capture is not self:
                self._clear()
                raise
        except BaseException:
            self._clear()
            raise
        finally:
            # Activation checkpointing runs modules again during backward: those calls must not count.
            self._armed = False
            if self._calls is not None:
                self._calls.stop()
        self._check_calls(forward)
        return output

    def _check_calls(self, forward: Callable[[], Any]) -> None:
        """Refuse a forward pass in which a named module or call was not made once, or others beside it were."""
        for point in self.points:
            count, expected = self._counts.get(point, 0), self._expected.get(point)
            made = 0 if expected is None else self._made.get(self._named[point].key, 0)
            if count == 1 and (expected is None or made == expected):
                continue
            called = self._named[point] if point in self._named else self._modules[point]
            why = why_not_one(self.model, called, count, made, expected, forward)
            self._clear()
            raise NotOneTensorError(f"{point.module!r} of {type(self.model).__name__} {why}")

    def _changed(self) -> set[CapturePoint]:
        return {point for point, version in self._versions.items() if self._tensors[point]._version != version}

    def _clear(self) -> None:
        self._tensors.clear()
        self._versions.clear()
        self._counts.clear()
        self._made.clear()

    def _call_entered(self, call: Call, given: object) -> None:
        self._call(call, "input", given)

    def _call_left(self, call: Call, output: object) -> None:
        self._call(call, "output", output)
        if self._armed and not call.is_function and call.called in self._pending:
            self._pending.discard(call.called)
            self._stop_if_complete()

    def _call(self, call: Call, side: str, value: object) -> None:
        """Record what a call takes or gives, at the points that name it."""
        for point, named in self._named.items():
            if named.key == call.key:
                self._made[call.key] = call.number
                if named.number == call.number and point.side == side:
                    self._record(point, value)

    def _record(self, point: CapturePoint, value: object) -> None:
        if not self._armed:
            return
        count = self._counts.get(point, 0)
        self._counts[point] = count + 1
        if count:
            return
        tensor = only_tensor(value, str(point), self.model)
        compiling = torch.compiler.is_compiling()
        checkable = not compiling and not tensor.is_inference()
        # What cannot be checked for a later change is copied; a compiler removes the copies that are not needed.
        if point in self.signs or point in self.overwritten or not checkable:
            inference = not compiling and torch.is_inference_mode_enabled()
            with torch.inference_mode(False) if inference else nullcontext():
                self._tensors[point] = above_zero(tensor) if point in self.signs else tensor.clone()
                if point in self.signs:
                    self.sums[point] = row_sums(tensor)
        else:
            self._tensors[point] = tensor
            self._versions[point] = tensor._version
        self._stop_if_complete()

    def _stop_if_complete(self) -> None:
        """End the pass if it is to be ended when all is recorded: tensors, and how many numbered calls there are."""
        complete = not self._pending and len(self._tensors) == len(self.points)
        if self._stopping and complete and not torch.compiler.is_compiling():
            raise _Complete(self)

    def _input_hook(self, point: CapturePoint) -> Callable[..., None]:
        def hook(_: nn.Module, positional: tuple[object, ...], named: dict[str, object]) -> None:
            self._record(point, positional[0] if positional else tuple(named.values()))

        return hook

    def _output_hook(self, point: CapturePoint) -> Callable[..., None]:
        def hook(_: nn.Module, __: tuple[object, ...], output: object) -> None:
            self._record(point, output)

        return hook


def refuse_compiled(model: nn.Module) -> None:
    """Refuse a model with a compiled part, whose hooks would be ignored without a word.

    Raises:
        TypeError: If the model or a module in it is compiled.
    """
    for name, module in model.named_modules():
        if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None:
            raise TypeError(
                f"{type(model).__name__} is compiled already (module {name or '(root)'!r}), and a compiled module "
                "ignores hooks that come later. Pass the plain model and set the argument `torch_compile=True`, or for "
                "a teacher `teacher_compile=True`."
            )
