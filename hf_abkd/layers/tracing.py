"""Tracing: what one forward pass of a model shows of its activations, without a name and without a list of families.

Which activation modules run once, how deep, in which layout and on which grid of the image; which activations are
functions that hooks cannot see.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hf_abkd.layers.capture import CapturePoint, is_boundary_activation, leaves_pixels_out
from hf_abkd.layers.layout import Layout, Order
from hf_abkd.layers.token_order import Forward, Place, find_order
from hf_abkd.models.kept_state import evaluating

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)
_POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.AvgPool2d, nn.MaxPool2d)
_CHANNELS_FIRST = (*_CONVOLUTIONS, nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d)
_ACTIVATIONS = frozenset(
    {"relu", "relu6", "leaky_relu", "prelu", "elu", "celu", "selu", "gelu", "silu", "mish", "hardswish", "softplus"}
)
# What can bring the positions of a map into another order. (Others, such as flatten and permute, keep it.)
_MOVES = frozenset(
    {"reshape", "view", "reshape_as", "view_as", "unflatten", "unfold", "fold", "roll", "gather", "index_select"}
)
# More leading tokens than any published model has; beyond it a number of tokens and a grid have nothing in common.
_MOST_SPECIAL_TOKENS = 32
_POOLED = "pooled over all positions (a gate, or part of the head)"
_NO_ORDER = "its positions do not lie row by row: folded, or in an order that could not be found"


@dataclass(frozen=True)
class Site:
    """An activation module: a place where a boundary can be captured.

    Args:
        module: Its name.
        activation: Its class.
        calls: How often it runs in one forward pass.
        shape: The shape of its input in the first call.
        layout: How that tensor lies; None if it holds no positions of the image.
        depth: The share of the convolutions and linear layers that ran before it, from 0 to 1.
        left_out: Why no pair should be proposed with it; empty if it can be paired.
    """

    module: str
    activation: str
    calls: int
    shape: tuple[int, ...]
    layout: Layout | None
    depth: float
    left_out: str = ""

    @property
    def point(self) -> CapturePoint:
        """The tensor before the activation."""
        return CapturePoint(self.module, "input")


@dataclass(frozen=True)
class Trace:
    """What one forward pass showed.

    Args:
        image_size: Height and width of the images, in pixels.
        sites: The activation modules in the order of their first calls.
        layouts: How the tensors at the other points asked for lie.
        functional: Activations that are function calls: the module that calls them, the function, and the module
            whose output is its input, if there is one.
        cropped: Convolutions whose stride leaves out the last rows or columns: name, stride, size of their input.
    """

    image_size: tuple[int, int]
    sites: tuple[Site, ...]
    layouts: dict[CapturePoint, Layout]
    functional: tuple[tuple[str, str, str | None], ...]
    cropped: tuple[tuple[str, tuple[int, int], tuple[int, int]], ...]


def trace(model: nn.Module, forward: Forward, images: Tensor, points: Iterable[CapturePoint] = ()) -> Trace:
    """Run a model in eval mode, and describe its activations and the tensors at some points.

    One forward pass shows most of it. Where positions may have been moved, a few more with changed parts of a map show
    whether they lie row by row; see `hf_abkd.layers.token_order`.

    Args:
        model: The model, not compiled.
        forward: Runs the model on a batch of images.
        images: A batch of two images or more, (N, C, H, W): with one, other dimensions of size 1 look like it. Few
            are enough, and an unusual number, such as 3, is the least like other sizes.
        points: Further tensors to describe.

    Raises:
        ValueError: If the batch is too small.
    """
    if images.ndim != 4 or len(images) < 2:
        raise ValueError(f"tracing needs two images or more, (N, C, H, W); got {tuple(images.shape)}")
    recorder = _Recorder(model, tuple(images.shape), set(points))
    with evaluating(model), torch.no_grad(), recorder.watching():
        forward(images)
    result = recorder.result()
    orders = _orders(model, forward, images, recorder.doubtful(result))
    sites = []
    for site in result.sites:
        layout = orders.get(site.point, site.layout)
        lost = site.point in orders and layout is not None and layout.grid is None
        sites.append(replace(site, layout=layout, left_out=_NO_ORDER if lost else site.left_out))
    layouts = {point: orders.get(point, layout) for point, layout in result.layouts.items()}
    return replace(result, sites=tuple(sites), layouts=layouts)


def _orders(model: nn.Module, forward: Forward, images: Tensor, places: Iterable[Place]) -> dict[CapturePoint, Layout]:
    """Return the layouts of tensors whose positions may have been moved.

    Layers on one grid share an order; the first of them shows it best, as each later one has seen more of the image.
    """
    found: dict[Layout, Layout] = {}
    orders = {}
    for place in places:
        if place.layout not in found:
            found[place.layout] = find_order(model, forward, images, place)
        orders[place.point] = found[place.layout]
    return orders


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
class _Output:
    """What a convolution, linear layer or normalisation gave."""

    tensor: Tensor
    channels: int
    dim: int

    def channels_in(self, value: Tensor) -> int | None:
        """Return the dimension that steps like the channels, in a view or what was computed element by element."""
        stride = self.tensor.stride(self.dim)
        same = [
            dim for dim in range(1, value.ndim) if value.shape[dim] == self.channels and value.stride(dim) == stride
        ]
        return same[0] if len(same) == 1 else None


@dataclass
class _Recorder:
    model: nn.Module
    shape: tuple[int, ...]
    points: set[CapturePoint]
    stack: list[str] = field(default_factory=list)
    # The tensors are kept, so that no later one can have the same id or the same memory.
    givers: dict[int, tuple[str, Tensor]] = field(default_factory=dict)
    outputs: list[_Output] = field(default_factory=list)
    sites: dict[str, Site] = field(default_factory=dict)
    layouts: dict[CapturePoint, Layout] = field(default_factory=dict)
    functional: dict[tuple[str, str], str | None] = field(default_factory=dict)
    cropped: dict[str, tuple[tuple[int, int], tuple[int, int]]] = field(default_factory=dict)
    layers: int = 0
    grids: list[tuple[int, int]] = field(default_factory=list)
    # The convolutions and poolings that gave a map, with its grid; whether positions may have been moved since.
    maps: list[tuple[str, tuple[int, int]]] = field(default_factory=list)
    moved: bool = True
    pooled: bool = False
    doubts: dict[CapturePoint, tuple[str, ...]] = field(default_factory=dict)

    @contextmanager
    def watching(self) -> Iterator[None]:
        handles = []
        for name, module in self.model.named_modules():
            handles.append(module.register_forward_pre_hook(self._before(name), with_kwargs=True))
            handles.append(module.register_forward_hook(self._after(name)))
        try:
            with _Functions(self._function):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def result(self) -> Trace:
        last = max(self.layers, 1)
        sites = [replace(site, depth=site.depth / last) for site in self.sites.values()]
        return Trace(
            image_size=(self.shape[2], self.shape[3]),
            sites=tuple(replace(site, left_out=self._why_not(sites, index)) for index, site in enumerate(sites)),
            layouts=self.layouts,
            functional=tuple((module, function, source) for (module, function), source in self.functional.items()),
            cropped=tuple((name, *sizes) for name, sizes in self.cropped.items()),
        )

    def doubtful(self, found: Trace) -> list[Place]:
        """Return the tensors whose positions may have been moved, of those that can be told (three lines and more)."""
        layouts = {site.point: site.layout for site in found.sites if not site.left_out} | found.layouts
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
            if _is_spatial(module) and value.ndim == 4 and giver in self.sites:
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
            if isinstance(module, (*_CONVOLUTIONS, nn.Linear)):
                self.layers += 1
            if isinstance(module, (*_CONVOLUTIONS, *_POOLS)) and value.ndim == 4:
                self._map(name, module, value)
            dim = _channel_dim(module, value)
            if dim is not None:
                self.outputs.append(_Output(value, value.shape[dim], dim))
            if point in self.points:
                self._point(point, value)

        return hook

    def _map(self, name: str, module: nn.Module, value: Tensor) -> None:
        grid = (value.shape[2], value.shape[3])
        if grid != (1, 1):
            self.pooled = False
        elif isinstance(module, _POOLS):
            self.pooled = True
        if value.shape[0] == self.shape[0] and _covers(grid, self.shape):
            if isinstance(module, nn.Conv2d):
                self.grids.append(grid)
            if _is_spatial(module) and grid != (1, 1):
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
        layout = self._layout(value)
        left_out = _POOLED if self.pooled and layout is not None and layout.grid == (1, 1) else ""
        site = Site(name, type(module).__name__, 1, tuple(value.shape), layout, float(self.layers), left_out)
        self.sites[name] = site
        self._doubt(site.point, layout)

    def _point(self, point: CapturePoint, value: Tensor) -> None:
        if point not in self.layouts and (layout := self._layout(value)) is not None:
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
        if not _covers(site.layout.grid, self.shape):
            return f"its grid {site.layout.grid} has not the proportions of the image"
        return ""

    def _layout(self, value: Tensor) -> Layout | None:
        if value.ndim not in (2, 3, 4) or value.shape[0] != self.shape[0]:
            return None
        if value.ndim == 2:
            return Layout("NC")
        dim = self._channels_of(value)
        if value.ndim == 4:
            first, last = (value.shape[2], value.shape[3]), (value.shape[1], value.shape[2])
            return Layout("NHWC", last) if dim == 3 else Layout("NCHW", first)
        order: Order = "NCL" if dim == 1 else "NLC"
        found = self._token_grid(value.shape[2 if dim == 1 else 1])
        if found is None:
            return Layout(order)
        special, grid = found
        self.grids.append(grid)
        return Layout(order, grid, special)

    def _channels_of(self, value: Tensor) -> int:
        """Return the dimension of the channels: where the layer before has put them."""
        memory = value.untyped_storage().data_ptr()
        for output in reversed(self.outputs):
            if output.tensor.untyped_storage().data_ptr() == memory and (dim := output.channels_in(value)) is not None:
                return dim
        # A sum or a transposed copy has memory of its own; the layer before has the same number of channels.
        for output in reversed(self.outputs):
            first, last = value.shape[1] == output.channels, value.shape[-1] == output.channels
            if output.tensor.ndim == value.ndim and (first or last):
                if first and last:
                    dim = output.channels_in(value)
                    return output.dim if dim is None else dim
                return 1 if first else value.ndim - 1
        for output in reversed(self.outputs):
            if value.shape[-1] == output.channels:
                return value.ndim - 1
        return 1 if value.ndim == 4 else 2

    def _token_grid(self, tokens: int) -> tuple[int, tuple[int, int]] | None:
        """Return the number of special tokens and the grid of the others, from the grids seen so far."""
        seen = list(dict.fromkeys(reversed(self.grids)))
        # Merging of patches halves the last grid.
        halves = [((grid[0] + 1) // 2, (grid[1] + 1) // 2) for grid in seen[:1]]
        # Patches made without a convolution are squares that leave nothing out.
        sizes = () if seen else range(1, min(self.shape[2:]) + 1)
        height, width = self.shape[2:]
        patches = [(height // size, width // size) for size in sizes if height % size == width % size == 0]
        fits = {
            tokens - math.prod(grid): grid
            for grid in reversed([*seen, *halves, *patches])
            if 0 <= tokens - math.prod(grid) <= min(_MOST_SPECIAL_TOKENS, math.prod(grid))
        }
        return (min(fits), fits[min(fits)]) if fits else None


def _only_tensor(value: object) -> Tensor | None:
    """Return the one tensor in what a module took or gave; None if there is none, or more than one."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    tensors = [part for part in (value if isinstance(value, (tuple, list)) else [value]) if isinstance(part, Tensor)]
    return tensors[0] if len(tensors) == 1 else None


def _is_spatial(module: nn.Module) -> bool:
    """Whether a module works on neighbours, so that its input and output are maps."""
    return isinstance(module, _POOLS) or (
        isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and max(module.kernel_size) > 1
    )


def _is_pooled(sites: Sequence[Site], index: int) -> bool:
    """Whether a site holds one position only because the others were averaged, not because the net got so small."""
    grids = [site.layout.grid if site.layout is not None else None for site in sites]
    if grids[index] != (1, 1):
        return False
    before = next((grid for grid in reversed(grids[:index]) if grid not in (None, (1, 1))), None)
    later = any(grid not in (None, (1, 1)) for grid in grids[index + 1 :])
    # A stage halves the grid, rounding up.
    return later or (before is not None and max(before) > 2)


def _channel_dim(module: nn.Module, output: Tensor) -> int | None:
    """Return the dimension in which a layer puts its channels."""
    if isinstance(module, _CHANNELS_FIRST) and output.ndim >= 2:
        return 1
    if isinstance(module, nn.Linear):
        return output.ndim - 1
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        width = module.normalized_shape[-1]
        sizes = [dim for dim in range(1, output.ndim) if output.shape[dim] == width]
        # Some families have a LayerNorm over the first dimension; where both fit, it says nothing.
        return sizes[0] if len(sizes) == 1 else None
    return None


def _covers(grid: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether a grid has the proportions of the images, up to one row."""
    height, width = shape[2], shape[3]
    if grid[0] > height or grid[1] > width:
        return False
    return abs(grid[0] - grid[1] * height / width) <= 1 or abs(grid[1] - grid[0] * width / height) <= 1
