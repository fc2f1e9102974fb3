"""Recording of one forward pass: which activations run, how deep, and how their inputs lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hf_abkd.layers.call_log import CallLog
from hf_abkd.layers.call_names import is_call, parse_call
from hf_abkd.layers.calls import Call, Calls
from hf_abkd.layers.capture import CapturePoint
from hf_abkd.layers.layout import Layout
from hf_abkd.layers.layout_finder import LayoutFinder, covers
from hf_abkd.layers.module_kinds import (
    CONVOLUTIONS,
    POOLS,
    is_spatial,
    leaves_pixels_out,
)
from hf_abkd.layers.passed_tensors import only_tensor_or_none
from hf_abkd.layers.sites import Site, Trace
from hf_abkd.layers.token_order import Place

# What can bring the positions of a map into another order. (Others, such as flatten and permute, keep it.)
_MOVES = frozenset(
    {"reshape", "view", "reshape_as", "view_as", "unflatten", "unfold", "fold", "roll", "gather", "index_select"}
)
_POOLED = "pooled over all positions (a gate, or part of the head)"


class _Functions(TorchFunctionMode):
    """Tell of every call of a function by its name."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__()
        self.tell = tell

    def __torch_function__(self, function: Any, _: Any, positional: Any = (), named: Any = None) -> Any:
        self.tell(getattr(function, "__name__", ""))
        return function(*positional, **(named or {}))


@dataclass
class Recorder:
    """Watches one forward pass of a model and describes its activations.

    Args:
        model: The model.
        shape: The shape of the images, (N, C, H, W).
        points: Further tensors to describe.
    """

    model: nn.Module
    shape: tuple[int, ...]
    points: set[CapturePoint]
    sites: dict[Call, Site] = field(default_factory=dict)
    # What activations returned. The tensors are kept, so that no later one can have the same id or the same memory.
    given: dict[int, tuple[Call, Tensor]] = field(default_factory=dict)
    layouts: dict[CapturePoint, Layout] = field(default_factory=dict)
    cropped: dict[str, tuple[tuple[int, int], tuple[int, int]]] = field(default_factory=dict)
    layers: int = 0
    # The convolutions and poolings that gave a map, with its grid; whether positions may have been moved since.
    maps: list[tuple[str, tuple[int, int]]] = field(default_factory=list)
    moved: bool = True
    pooled: bool = False
    doubts: dict[Call | CapturePoint, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make what finds out how tensors lie, and which calls are activations."""
        self.finder = LayoutFinder(self.shape)
        self.log = CallLog(self.model)
        self.wanted: dict[tuple[object, str], list[CapturePoint]] = {}
        for point in self.points:
            place = parse_call(self.model, point.module).call if is_call(point.module) else point.module
            self.wanted.setdefault((place, point.side), []).append(point)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch what runs inside of the block."""
        calls = Calls(self.model, self._entered, self._left, functions=True, also=None)
        calls.attach()
        try:
            with _Functions(self._function), calls.start():
                yield
        finally:
            calls.stop()
            calls.detach()

    def result(self) -> Trace:
        """Return what was seen."""
        last = max(self.layers, 1)
        sites = [replace(site, module=self._name(call), depth=site.depth / last) for call, site in self.sites.items()]
        return Trace(
            image_size=(self.shape[2], self.shape[3]),
            sites=tuple(replace(site, left_out=self._why_not(sites, index)) for index, site in enumerate(sites)),
            layouts=self.layouts,
            cropped=tuple((name, *sizes) for name, sizes in self.cropped.items()),
        )

    def doubtful(self, trace: Trace) -> list[Place]:
        """Return the tensors whose positions may have been moved, of those that can be told (three lines and more)."""
        layouts = {site.point: site.layout for site in trace.sites if not site.left_out} | trace.layouts
        points = {
            place if isinstance(place, CapturePoint) else CapturePoint(self._name(place), "input"): sources
            for place, sources in self.doubts.items()
        }
        return [
            Place(point, layout, sources)
            for point, sources in points.items()
            if (layout := layouts.get(point)) is not None and layout.grid is not None and min(layout.grid) > 2
        ]

    def _name(self, call: Call) -> str:
        """Return the name of an activation; of one in a block that runs several times that of the module."""
        lone = not call.is_function and len(self.log.calls_of(call.called)) == 1
        return call.called if lone else self.log.name(call)

    def _entered(self, call: Call, given: object) -> None:
        value = only_tensor_or_none(given)
        activation = self.log.entered(call, value)
        if value is None:
            return
        if activation is not None:
            kind = call.called if activation.is_function else type(self.log.modules[activation.called]).__name__
            self._site(activation, kind, value)
        else:
            self._points(call, "input", value)
        if call.is_function:
            return
        module = self.log.modules[call.called]
        if isinstance(module, nn.Conv2d) and leaves_pixels_out(module, value):
            self.cropped[call.called] = ((module.stride[0], module.stride[1]), (value.shape[-2], value.shape[-1]))
        giver, _ = self.given.get(id(value), (None, None))
        if giver is not None and is_spatial(module) and value.ndim == 4:
            # What a convolution slides over is a map.
            self.doubts.pop(giver, None)

    def _left(self, call: Call, output: object) -> None:
        value = only_tensor_or_none(output)
        activation = self.log.left(call)
        if value is None:
            return
        if activation is not None:
            # An activation in place returns what it was given.
            self.given[id(value)] = (activation, value)
        if not call.is_function:
            self._output(call.called, self.log.modules[call.called], value)
        self._points(call, "output", value)

    def _output(self, name: str, module: nn.Module, value: Tensor) -> None:
        if isinstance(module, (*CONVOLUTIONS, nn.Linear)):
            self.layers += 1
        if isinstance(module, (*CONVOLUTIONS, *POOLS)) and value.ndim == 4:
            self._map(name, module, value)
        self.finder.see_output(module, value)

    def _map(self, name: str, module: nn.Module, value: Tensor) -> None:
        grid = (value.shape[2], value.shape[3])
        if grid != (1, 1):
            self.pooled = False
        elif isinstance(module, POOLS):
            self.pooled = True
        if value.shape[0] == self.shape[0] and covers(grid, self.shape):
            if isinstance(module, nn.Conv2d):
                self.finder.see_grid(grid)
            if is_spatial(module) and grid != (1, 1):
                self.maps.append((name, grid))
                self.moved = False

    def _function(self, name: str) -> None:
        if name in _MOVES:
            self.moved = True

    def _site(self, call: Call, kind: str, value: Tensor) -> None:
        if call in self.sites:
            self.sites[call] = replace(self.sites[call], calls=self.sites[call].calls + 1)
            return
        layout = self.finder.layout(value)
        left_out = _POOLED if self.pooled and layout is not None and layout.grid == (1, 1) else ""
        self.sites[call] = Site("", kind, 1, tuple(value.shape), layout, float(self.layers), left_out)
        self._doubt(call, layout)

    def _points(self, call: Call, side: str, value: Tensor) -> None:
        """Describe a tensor that was asked for, by its module or by its call."""
        for point in (*self.wanted.get((call.called, side), ()), *self.wanted.get((call, side), ())):
            if point not in self.layouts and (layout := self.finder.layout(value)) is not None:
                self.layouts[point] = layout
                self._doubt(point, layout)

    def _doubt(self, place: Call | CapturePoint, layout: Layout | None) -> None:
        if layout is None or layout.grid is None or not (self.moved or layout.has_tokens):
            return
        rows, columns = layout.grid
        same = [name for name, grid in self.maps if grid == layout.grid]
        finer = [name for name, grid in self.maps if grid[0] >= rows and grid[1] >= columns]
        # The latest says the most; the first on this grid is on no branch.
        self.doubts[place] = tuple(dict.fromkeys([*same[-1:], *same[:1]])) or tuple(finer[-1:])

    def _why_not(self, sites: Sequence[Site], index: int) -> str:
        site = sites[index]
        if site.calls > 1:
            return f"runs {site.calls} times in one forward pass, with the module that calls it"
        if site.shape[0] != self.shape[0]:
            return f"its first dimension is not the batch: {site.shape}"
        if site.left_out or _is_pooled(sites, index):
            return _POOLED
        if site.layout is None or site.layout.grid is None:
            return f"lies on no grid over the image: {site.shape}"
        if not covers(site.layout.grid, self.shape):
            return f"its grid {site.layout.grid} has not the proportions of the image"
        return ""


def _is_pooled(sites: Sequence[Site], index: int) -> bool:
    """Whether a site holds one position only because the others were averaged, not because the net got so small."""
    grids = [site.layout.grid if site.layout is not None else None for site in sites]
    if grids[index] != (1, 1):
        return False
    before = next((grid for grid in reversed(grids[:index]) if grid not in (None, (1, 1))), None)
    later = any(grid not in (None, (1, 1)) for grid in grids[index + 1 :])
    # A stage halves the grid, rounding up.
    return later or (before is not None and max(before) > 2)
