"""Tracing: what one forward pass of a model shows of its activations, without a name and without a list of families.

Which activations run, modules and functions, how deep, in which layout and on which grid of the image.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from hf_abkd.layers.capture import CapturePoint
from hf_abkd.layers.layout import Layout
from hf_abkd.layers.recorder import Recorder
from hf_abkd.layers.scripted import refuse_scripted
from hf_abkd.layers.sites import Trace
from hf_abkd.layers.token_order import Forward, Place, find_order
from hf_abkd.models.kept_state import evaluating

_NO_ORDER = "its positions do not lie row by row: folded, or in an order that could not be found"


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
        ValueError: If the batch is too small, or the model is in TorchScript.
    """
    refuse_scripted(model)
    if images.ndim != 4 or len(images) < 2:
        raise ValueError(f"tracing needs two images or more, (N, C, H, W); got {tuple(images.shape)}")
    recorder = Recorder(model, tuple(images.shape), set(points))
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
    orders_of_grids: dict[Layout, Layout] = {}
    orders = {}
    for place in places:
        if place.layout not in orders_of_grids:
            orders_of_grids[place.layout] = find_order(model, forward, images, place)
        orders[place.point] = orders_of_grids[place.layout]
    return orders
