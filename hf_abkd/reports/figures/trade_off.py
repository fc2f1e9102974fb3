"""Trade-off: how good models are against what they cost, and which of them no other one beats in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from hf_abkd.reports.figures.theme import MUTED, add_legend, drawing, look_of, new_axes

# From this ratio of the largest to the smallest cost on, small models would lie on one another.
_LOGARITHMIC_FROM = 8


@dataclass(frozen=True)
class Candidate:
    """A model that might be used.

    Attributes:
        label: What it is called; those with one name have one colour.
        cost: What it costs; less is better.
        accuracy: Its accuracy in per cent.
    """

    label: str
    cost: float
    accuracy: float


def pareto_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the models that none is as good and cheaper than, or as cheap and better than; the cheapest first.

    Example:
        >>> small, large, worse = Candidate("small", 1, 80), Candidate("large", 9, 90), Candidate("worse", 9, 70)
        >>> [one.label for one in pareto_front([large, worse, small])]
        ['small', 'large']
    """
    front: list[Candidate] = []
    for one in sorted(candidates, key=lambda one: (one.cost, -one.accuracy)):
        if not front or one.accuracy > front[-1].accuracy:
            front.append(one)
    return front


def trade_off(candidates: Sequence[Candidate], cost: str) -> Figure:
    """Draw accuracies against costs, and the Pareto front through the best.

    Args:
        candidates: The models.
        cost: What they cost, with its unit.

    Raises:
        ValueError: If there is none.
    """
    if not candidates:
        raise ValueError(f"there is no model whose accuracy and {cost} are known")
    look = look_of([one.label for one in candidates])
    costs = [one.cost for one in candidates]
    front = pareto_front(candidates)
    with drawing():
        figure, axes = new_axes()
        handles = {}
        edges = [(one.cost, one.accuracy) for one in front]
        (handles["Pareto front"],) = axes.plot(
            *zip(*edges, strict=True), color=MUTED, linewidth=1.2, drawstyle="steps-post", zorder=1
        )
        for label, style in look.items():
            points = [(one.cost, one.accuracy) for one in candidates if one.label == label]
            (handles[label],) = axes.plot(
                *zip(*points, strict=True), **{**style, "linestyle": ""}, alpha=0.85, markersize=7, zorder=2
            )
        if max(costs) / min(costs) >= _LOGARITHMIC_FROM:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
            axes.xaxis.set_minor_formatter(NullFormatter())
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.margins(0.12)
        axes.set_xlabel(cost)
        axes.set_ylabel("accuracy (%)")
        add_legend(figure, list(handles.values()), list(handles))
    return figure
