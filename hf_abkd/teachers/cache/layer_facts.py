"""What a cache tells of a layer: its names, the activation whose boundary it is, and how it lies; to JSON and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from hf_abkd.layers.layout import Layout
from hf_abkd.layers.sites import Site


def layer_facts(names: Sequence[str], site: Site | None, layout: Layout | None) -> dict[str, Any]:
    """Return what a cache tells of a layer, as JSON holds it.

    Args:
        names: The names by which terms may call it.
        site: The activation whose boundary it is; None for another tensor.
        layout: How it lies.
    """
    about = None if site is None else {key: value for key, value in asdict(site).items() if key != "layout"}
    return {"names": list(names), "site": about, "layout": None if layout is None else asdict(layout)}


def layout_of(facts: Mapping[str, Any]) -> Layout | None:
    """Return how a layer lies, from its facts."""
    stored = facts["layout"]
    if stored is None:
        return None
    grid, positions = stored["grid"], stored["positions"]
    return Layout(
        stored["order"],
        None if grid is None else (grid[0], grid[1]),
        stored["special_tokens"],
        None if positions is None else tuple(positions),
    )


def site_of(facts: Mapping[str, Any]) -> Site | None:
    """Return the activation whose boundary a layer is, from its facts; None of another tensor."""
    stored = facts["site"]
    if stored is None:
        return None
    return Site(**{**stored, "shape": tuple(stored["shape"]), "layout": layout_of(facts)})
