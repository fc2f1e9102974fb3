"""The tiny models of `benchmarks/families.py` and what tracing shows of them, made once for all tests."""

from __future__ import annotations

import copy
import sys
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from hf_abkd.layers.sites import Site, Trace
from hf_abkd.layers.tracing import trace

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from families import FAMILIES, LEFT_OUT, build  # noqa: E402

__all__ = ["FAMILIES", "LEFT_OUT", "build", "fresh", "images", "of_family", "of_model", "site", "used"]


def images(*size: int, count: int = 3, seed: int = 0) -> Tensor:
    """Noise of some height and width, 64 by default."""
    height, width = size or (64, 64)
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def of_model(model: nn.Module, pixels: Tensor | None = None, points: object = ()) -> Trace:
    """What tracing shows of a model that takes images first."""
    return trace(model, lambda pixels: model(pixels), images() if pixels is None else pixels, points)


@cache
def _made(name: str, seed: int) -> nn.Module:
    return build(name, seed=seed)


def fresh(name: str, seed: int = 0) -> nn.Module:
    """A copy of the tiny model of a family, which takes longer to make than to copy."""
    return copy.deepcopy(_made(name, seed))


@cache
def of_family(name: str) -> Trace:
    """What tracing shows of the tiny model of a family."""
    return of_model(_made(name, 0))


def used(found: Trace) -> list[Site]:
    """The activations that can be paired."""
    return [site for site in found.sites if not site.left_out]


def site(found: Trace, name: str) -> Site:
    """The activation whose name ends like this."""
    (match,) = [site for site in found.sites if site.module.endswith(name)]
    return match
