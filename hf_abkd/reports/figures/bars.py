"""Bars: numbers of classes or layers beside one another, one bar for each of a few things that are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from hf_abkd.reports.figures.theme import INK, MUTED, add_legend, drawing, look_of, new_axes

# Inches: of a bar, between two groups of bars, and of what stands around them all.
_BAR, _GAP, _AROUND = 0.17, 0.12, 0.95
_LONGEST_NAME = 22


def bars(
    names: Sequence[str],
    values: Mapping[str, Sequence[Sequence[float]]],
    quantity: str,
    *,
    signed: bool = False,
    told: Mapping[str, Sequence[str]] | None = None,
) -> Figure:
    """Draw bars from left to right, the names one below the other.

    Args:
        names: What has a number, from the top on.
        values: What is compared, and of each the numbers of every name, one for each seed: the bar is their mean, and
            several are marked on it.
        quantity: What is drawn, with its unit.
        signed: Whether the numbers are differences, which are written with their sign.
        told: What is written behind the bars, likewise; a bar of 0 is seen by it, too.

    Raises:
        ValueError: If there is nothing to draw, or there are not as many numbers as names.
    """
    if not names or not values:
        raise ValueError(f"there is no {quantity} to draw")
    if wrong := [label for label, numbers in values.items() if len(numbers) != len(names)]:
        raise ValueError(f"{wrong[0]} has {len(values[wrong[0]])} numbers for {len(names)} names")
    look = look_of(list(values))
    step = len(values) * _BAR + _GAP
    with drawing():
        figure, axes = new_axes(height=_AROUND + step * len(names))
        handles = []
        for number, (label, numbers) in enumerate(values.items()):
            rows = [row * step + number * _BAR for row in range(len(names))]
            means = [fmean(seeds) for seeds in numbers]
            drawn = axes.barh(rows, means, height=0.9 * _BAR, color=look[label]["color"])
            handles.append(drawn)
            if told is not None:
                axes.bar_label(drawn, told[label], padding=3, fontsize=8, color=INK)
            for row, seeds in zip(rows, numbers, strict=True):
                if len(seeds) > 1:
                    axes.plot(seeds, [row] * len(seeds), color=INK, linestyle="", marker="|", markersize=6)
        middle = (len(values) - 1) * _BAR / 2
        axes.set_yticks([row * step + middle for row in range(len(names))], list(map(_cut, names)))
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.invert_yaxis()
        axes.axvline(0, color=MUTED, linewidth=1)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:{'+' if signed and value else ''}g}"))
        axes.set_xlabel(quantity)
        if told is not None:
            # Room for what is written behind the longest bar.
            axes.margins(x=0.2)
        add_legend(figure, handles, list(values))
    return figure


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
