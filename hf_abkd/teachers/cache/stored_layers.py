"""StoredLayers: which tensors of a teacher are stored, by which names terms may call them, and how they lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hf_abkd.data.table.columns import Column
from hf_abkd.layers.boundary_points import resolve_boundaries, resolve_tensors
from hf_abkd.layers.capture import CapturePoint
from hf_abkd.layers.pairing import propose
from hf_abkd.layers.sites import Site, Trace
from hf_abkd.layers.tracing import trace
from hf_abkd.models.expected_images import PIXELS
from hf_abkd.models.outputs import LOGITS
from hf_abkd.teachers.cache.cache_identity import layer_facts
from hf_abkd.teachers.cache.settings import CacheSettings
from hf_abkd.teachers.live import LiveTeacher


class StoredLayers:
    """The layers of a teacher that settings name, or the ends of its stages.

    Args:
        teacher: The teacher.
        settings: What is stored.
        pixels: A few images, (N, C, H, W), to trace it on.

    Attributes:
        points: Module and side of each tensor, by the name of its column.
        facts: What the cache tells of each, likewise; see `hf_abkd.teachers.cache.cache_identity`.
        boundaries: The columns that hold boundaries.

    Raises:
        ValueError: If there is no such layer, or no layers were named and the stages show no boundaries.
    """

    def __init__(self, teacher: nn.Module, settings: CacheSettings, pixels: Tensor) -> None:
        self.points: dict[str, list[str]] = {}
        self.facts: dict[str, Mapping[str, Any]] = {}
        self.boundaries: set[str] = set()
        runner = LiveTeacher(teacher)

        def forward(images: Tensor) -> Tensor:
            return runner.logits({PIXELS: images})

        with torch.no_grad():
            features = resolve_tensors(teacher, settings.features, lambda: forward(pixels))
            boundaries = resolve_boundaries(teacher, settings.layers or [], lambda: forward(pixels))
        if settings.layers is not None and not boundaries and not features:
            # The logits alone: a teacher in TorchScript cannot be traced, and need not be.
            return
        seen = trace(teacher, forward, pixels, {*boundaries.values(), *features.values()})
        if settings.layers is None:
            boundaries = {site.module: site.point for site in _stage_ends(seen)}
        sites = {site.point: site for site in seen.sites}
        layouts = {**seen.layouts, **{point: site.layout for point, site in sites.items() if site.layout is not None}}
        for name, point in boundaries.items():
            # A boundary may be called by its activation.
            names = self._add(str(point), name, point, by_module=point in sites)
            self.boundaries.add(str(point))
            self.facts[str(point)] = layer_facts(names, sites.get(point), layouts.get(point))
        for name, point in features.items():
            # An output may be called by its module.
            key = f"values of {point}"
            names = self._add(key, name, point, by_module=point.side == "output")
            self.facts[key] = layer_facts(names, None, layouts.get(point))

    def _add(self, key: str, name: str, point: CapturePoint, *, by_module: bool) -> list[str]:
        """Take in a tensor, maybe by a further name; return all names that it has now."""
        self.points[key] = [point.module, point.side]
        earlier = self.facts[key]["names"] if key in self.facts else []
        return list(dict.fromkeys([name, *earlier, str(point), *([point.module] if by_module else [])]))

    def columns(self, examples: Mapping[str, Tensor], settings: CacheSettings) -> list[Column]:
        """Return the columns of the table, from an example of each tensor and of the logits."""
        classes = examples[LOGITS].shape[1]
        columns = []
        if settings.logits is None or settings.logits >= classes:
            columns.append(Column(LOGITS, "logits", (classes,)))
        elif settings.logits:
            columns.append(Column(LOGITS, "topk", (settings.logits, classes)))
        for key in self.points:
            shape = tuple(examples[key].shape[1:])
            columns.append(Column(key, "bits" if key in self.boundaries else "float16", shape))
        return columns


def _stage_ends(seen: Trace) -> list[Site]:
    """Return the activations that represent a teacher's stages: those it would be paired with itself by."""
    try:
        return [pair.teacher for pair in propose(seen, seen)]
    except ValueError as error:
        reason = str(error).partition(": ")[2]
        raise ValueError(
            f"the teacher shows no boundaries that could be stored by themselves: {reason} Or give layers=[] to store "
            "none (--layers without a name)."
        ) from error
