"""Activations of a model as text: a table of those that can be paired, and why the others cannot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hf_abkd.layers.sites import Site, Trace
from hf_abkd.wording import by, listed

# Rows of a stage before those in its middle are left out.
_MOST_ROWS = 8


def activation_table(found: Trace, *, every: bool) -> list[str]:
    """Return the activations that can be paired as the rows of a table, stage by stage: those on equal grids.

    Args:
        found: What one forward pass showed of a model.
        every: Whether all activations of a stage are shown, not only its first and last ones.

    Returns:
        The rows below their head; nothing if there is no such activation.
    """
    sites = [site for site in found.sites if not site.left_out]
    return list(_rows(sites, every=every)) if sites else []


def _rows(sites: Sequence[Site], *, every: bool) -> Iterator[str]:
    stages: dict[tuple[int, ...] | None, list[Site]] = {}
    for site in sites:
        stages.setdefault(site.layout.grid if site.layout else None, []).append(site)
    head = ("module", "activation", "layout", "grid", "channels", "depth")
    module_width = max(len(site.module) for site in sites)
    activation_width = max(len(site.activation) for site in sites)
    layout_width = max(len(_layout(site)) for site in sites)
    widths = (max(module_width, 6), max(activation_width, 10), max(layout_width, 6), 7, 8, 5)
    yield _row(head, widths)
    for grid, stage in stages.items():
        shown = stage if every or len(stage) <= _MOST_ROWS else [*stage[:2], *stage[-4:]]
        hidden = len(stage) - len(shown)
        for number, site in enumerate(shown):
            if hidden and number == 2:
                yield f"... {hidden} more on this grid (--all)"
            channels = site.shape[site.layout.channel_dim] if site.layout else ""
            cells = (site.module, site.activation, _layout(site), by(grid or ()), f"{channels}", f"{site.depth:.0%}")
            yield _row(cells, widths)


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Return cells in columns: names to the left, numbers to the right."""
    columns = [
        cell.ljust(width) if number < 3 else cell.rjust(width)
        for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(columns).rstrip()


def remarks(found: Trace, *, every: bool) -> Iterator[str]:
    """Return what cannot be paired, and why, line by line.

    Args:
        found: What one forward pass showed of a model.
        every: Whether all modules are named, not only the first ones of each reason.
    """
    reasons: dict[str, list[str]] = {}
    for site in found.sites:
        if site.left_out:
            reasons.setdefault(site.left_out, []).append(site.module)
    for reason, modules in reasons.items():
        yield f"not paired, {reason}: {_some(modules, every=every)}"
    for name, stride, size in found.cropped:
        lost = f"{size[0] % stride[0]} rows and {size[1] % stride[1]} columns"
        yield f"{name} leaves out the last {lost} of {size[0]}x{size[1]}: its patches are {stride[0]}x{stride[1]}"
    if not found.sites:
        yield "no activation was seen; name layers with ':input' or ':output'"


def _layout(site: Site) -> str:
    return site.layout.describe() if site.layout else ""


def _some(names: Sequence[str], *, every: bool) -> str:
    return listed(names, len(names) if every else 3, hint="--all")
