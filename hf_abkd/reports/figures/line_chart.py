"""Line chart: a quantity over the steps of training, with the stages marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from hf_abkd.reports.figures.theme import GRID, INK, MUTED, add_legend, drawing, look_of, new_axes

# From this ratio of the largest to the smallest value on, a linear axis shows a flat line.
_LOGARITHMIC_FROM = 50
# Wide of a letter, as a share of the field.
_LETTER = 0.0165


@dataclass(frozen=True)
class Line:
    """A quantity of one run.

    Attributes:
        label: What it is called; lines with one name have one colour and stand in the legend once.
        steps: The steps at which it was measured.
        values: The values.
        measured: Whether it was measured now and then, so that each measurement is marked.
    """

    label: str
    steps: Sequence[float]
    values: Sequence[float]
    measured: bool = False


@dataclass(frozen=True)
class Span:
    """The steps of a stage.

    Attributes:
        name: What the stage is called.
        start: How many steps are done when it begins.
        stop: How many are done when it ends.
    """

    name: str
    start: int
    stop: int


def line_chart(
    lines: Sequence[Line],
    quantity: str,
    *,
    spans: Sequence[Span] = (),
    level: tuple[str, float] | None = None,
    logarithmic: bool | None = None,
) -> Figure:
    """Draw a quantity over the steps.

    Args:
        lines: The lines.
        quantity: What is drawn, with its unit.
        spans: The stages; one alone is not marked.
        level: A name and a value to compare with, drawn across.
        logarithmic: Whether each factor of ten takes as much room; by default where values differ by much.

    Raises:
        ValueError: If there is nothing to draw.
    """
    values = [value for line in lines for value in line.values]
    if not values:
        raise ValueError(f"there is no value of {quantity} to draw")
    look = look_of([line.label for line in lines])
    several = len({line.label for line in lines}) < len(lines)
    with drawing():
        figure, axes = new_axes()
        handles = {}
        for line in lines:
            style = {**look[line.label], "linewidth": 1.0 if several else 1.5, "alpha": 0.8 if several else 1.0}
            if not line.measured:
                style["marker"] = ""
            (handles[line.label],) = axes.plot(line.steps, line.values, **style)
        if level is not None:
            handles[level[0]] = axes.axhline(level[1], color=MUTED, linestyle=(0, (4, 2)), linewidth=1.2)
        _scale(axes, values, logarithmic)
        axes.set_xlabel("training step")
        axes.set_ylabel(quantity)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        if len(spans) > 1:
            _mark(axes, spans)
        add_legend(figure, list(handles.values()), list(handles))
    return figure


def _scale(axes: Axes, values: Sequence[float], logarithmic: bool | None) -> None:
    """Choose how values lie on the upright axis."""
    least, most = min(values), max(values)
    if logarithmic is None:
        logarithmic = least > 0 and most / least >= _LOGARITHMIC_FROM
    if logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=7))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(6))


def _mark(axes: Axes, spans: Sequence[Span]) -> None:
    """Mark where each stage begins, by its name where there is room and else by its number."""
    first, last = spans[0].start, max(span.stop for span in spans)
    axes.set_xlim(first - 0.02 * (last - first), last + 0.02 * (last - first))
    for number, span in enumerate(spans, 1):
        share = (span.stop - span.start) / (last - first)
        if number > 1:
            axes.axvline(span.start, color=INK, linewidth=1, linestyle=(0, (2, 2)))
        if number % 2 == 0:
            axes.axvspan(span.start, span.stop, color=GRID, alpha=0.45, linewidth=0, zorder=0)
        text = span.name if len(span.name) * _LETTER < share else str(number)
        place = ((span.start + span.stop) / 2, 1.01)
        axes.text(*place, text, transform=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=8.5)
