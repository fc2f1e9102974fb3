"""Recording of one forward pass: which activations run, how deep, how their inputs lie, and what hooks cannot see."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hf_abkd.layers.capture import CapturePoint, tensors_in
from hf_abkd.layers.layout import Layout
from hf_abkd.layers.layout_finder import LayoutFinder, covers
from hf_abkd.layers.module_kinds import (
    CONVOLUTIONS,
    POOLS,
    is_boundary_activation,
    is_spatial,
    leaves_pixels_out,
)
from hf_abkd.layers.module_names import hookable
from hf_abkd.layers.sites import Site, Trace
from hf_abkd.layers.token_order import Place

_ACTIVATIONS = frozenset(
    {"relu", "relu6", "leaky_relu", "prelu", "elu", "celu", "selu", "gelu", "silu", "mish", "hardswish", "softplus"}
)
# What can bring the positions of a map into another order. (Others, such as flatten and permute, keep it.)
_MOVES = frozenset(
    {"reshape", "view", "reshape_as", "view_as", "unflatten", "unfold", "fold", "roll", "gather", "index_select"}
)
_POOLED = "pooled over all positions (a gate, or part of the head)"


class _Functions(TorchFunctionMode):
    """Tell of every call of a function."""

    def __init__(self, tell: Callable[[str, object], None]) -> None:
        super().__init__()
        self.tell = tell

    def __torch_function__(self, function: Any, _: Any, positional: Any = (), named: Any = None) -> Any:
        named = named or {}
        self.tell(getattr(function, "__name__", ""), positional[0] if positional else named.get("input"))
        return function(*positional, **named)


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
    stack: list[str] = field(default_factory=list)
    # The tensors are kept, so that no later one can have the same id or the same memory.
    givers: dict[int, tuple[str, Tensor]] = field(default_factory=dict)
    sites: dict[str, Site] = field(default_factory=dict)
    layouts: dict[CapturePoint, Layout] = field(default_factory=dict)
    functional: dict[tuple[str, str], str | None] = field(default_factory=dict)
    cropped: dict[str, tuple[tuple[int, int], tuple[int, int]]] = field(default_factory=dict)
    layers: int = 0
    # The convolutions and poolings that gave a map, with its grid; whether positions may have been moved since.
    maps: list[tuple[str, tuple[int, int]]] = field(default_factory=list)
    moved: bool = True
    pooled: bool = False
    doubts: dict[CapturePoint, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make what finds out how tensors lie."""
        self.finder = LayoutFinder(self.shape)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch what runs inside of the block."""
        handles = []
        for name, module in hookable(self.model):
            handles.append(module.register_forward_pre_hook(self._before(name), with_kwargs=True))
            handles.append(module.register_forward_hook(self._after(name)))
        try:
            with _Functions(self._function):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def result(self) -> Trace:
        """Return what was seen."""
        last = max(self.layers, 1)
        sites = [replace(site, depth=site.depth / last) for site in self.sites.values()]
        return Trace(
            image_size=(self.shape[2], self.shape[3]),
            sites=tuple(replace(site, left_out=self._why_not(sites, index)) for index, site in enumerate(sites)),
            layouts=self.layouts,
            functional=tuple((module, function, source) for (module, function), source in self.functional.items()),
            cropped=tuple((name, *sizes) for name, sizes in self.cropped.items()),
        )

    def doubtful(self, trace: Trace) -> list[Place]:
        """Return the tensors whose positions may have been moved, of those that can be told (three lines and more)."""
        layouts = {site.point: site.layout for site in trace.sites if not site.left_out} | trace.layouts
        return [
            Place(point, layout, sources)
            for point, sources in self.doubts.items()
            if (layout := layouts.get(point)) is not None and layout.grid is not None and min(layout.grid) > 2
        ]

    def _before(self, name: str) -> Callable[..., None]:
        point = CapturePoint(name, "input")

        def hook(module: nn.Module, positional: tuple[object, ...], named: dict[str, object]) -> None:
            self.stack.append(name)
            value = _only_tensor(positional[0] if positional else tuple(named.values()))
            if value is None:
                return
            if is_boundary_activation(module):
                self._site(name, module, value)
            elif point in self.points:
                self._point(point, value)
            if isinstance(module, nn.Conv2d) and leaves_pixels_out(module, value):
                self.cropped[name] = ((module.stride[0], module.stride[1]), (value.shape[-2], value.shape[-1]))
            giver = self.givers.get(id(value), ("",))[0]
            if is_spatial(module) and value.ndim == 4 and giver in self.sites:
                # What a convolution slides over is a map.
                self.doubts.pop(self.sites[giver].point, None)

        return hook

    def _after(self, name: str) -> Callable[..., None]:
        point = CapturePoint(name, "output")

        def hook(module: nn.Module, _: object, output: object) -> None:
            self.stack.pop()
            value = _only_tensor(output)
            if value is None:
                return
            # The innermost module that returned it; an activation in place returns what it was given.
            if id(value) not in self.givers or is_boundary_activation(module):
                self.givers[id(value)] = (name, value)
            if isinstance(module, (*CONVOLUTIONS, nn.Linear)):
                self.layers += 1
            if isinstance(module, (*CONVOLUTIONS, *POOLS)) and value.ndim == 4:
                self._map(name, module, value)
            self.finder.see_output(module, value)
            if point in self.points:
                self._point(point, value)

        return hook

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

    def _function(self, function: str, value: object) -> None:
        if function in _MOVES:
            self.moved = True
        function = function.rstrip("_")
        caller = self.stack[-1] if self.stack else ""
        if function in _ACTIVATIONS and not (caller and is_boundary_activation(self.model.get_submodule(caller))):
            self.functional.setdefault((caller, function), self.givers.get(id(value), (None,))[0])

    def _site(self, name: str, module: nn.Module, value: Tensor) -> None:
        if name in self.sites:
            self.sites[name] = replace(self.sites[name], calls=self.sites[name].calls + 1)
            return
        layout = self.finder.layout(value)
        left_out = _POOLED if self.pooled and layout is not None and layout.grid == (1, 1) else ""
        site = Site(name, type(module).__name__, 1, tuple(value.shape), layout, float(self.layers), left_out)
        self.sites[name] = site
        self._doubt(site.point, layout)

    def _point(self, point: CapturePoint, value: Tensor) -> None:
        if point not in self.layouts and (layout := self.finder.layout(value)) is not None:
            self.layouts[point] = layout
            self._doubt(point, layout)

    def _doubt(self, point: CapturePoint, layout: Layout | None) -> None:
        if layout is None or layout.grid is None or not (self.moved or layout.has_tokens):
            return
        rows, columns = layout.grid
        same = [name for name, grid in self.maps if grid == layout.grid]
        finer = [name for name, grid in self.maps if grid[0] >= rows and grid[1] >= columns]
        # The latest says the most; the first on this grid is on no branch.
        self.doubts[point] = tuple(dict.fromkeys([*same[-1:], *same[:1]])) or tuple(finer[-1:])

    def _why_not(self, sites: Sequence[Site], index: int) -> str:
        site = sites[index]
        if site.calls > 1:
            return f"runs {site.calls} times in one forward pass"
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


def _only_tensor(value: object) -> Tensor | None:
    """Return the one tensor in what a module took or gave; None if there is none, or more than one."""
    tensors = tensors_in(value)
    return tensors[0] if len(tensors) == 1 else None
