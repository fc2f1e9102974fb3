"""The look of every figure: its size, its letters, and colours that are told apart by colour-blind readers, too.

A figure is drawn in the colours for light paper. `DARK` has the counterpart of each, for pages read in the dark.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from warnings import catch_warnings, filterwarnings

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PAPER, INK, MUTED, GRID = "#ffffff", "#1b1f24", "#5b6675", "#dde2e8"
#: After Okabe and Ito (https://jfly.uni-koeln.de/color), with darker yellow and blue that are read on white.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#b3578a", "#8a6d00", "#2f9bd6", "#6a51a3", "#4d4d4d")
_DARK_SERIES = ("#56b4e9", "#ff8a3d", "#2fd0a0", "#ec9dc6", "#e3c440", "#a5dcff", "#b9a3f2", "#c9c9c9")
#: The colours of a figure, and what stands for each in the dark.
DARK = {
    PAPER: "#14181d",
    INK: "#e6e9ed",
    MUTED: "#a2acb8",
    GRID: "#363e48",
    **dict(zip(SERIES, _DARK_SERIES, strict=True)),
}

# Inches. One is as wide as a telephone, so that letters keep their size there; a wide screen holds two.
WIDTH, HEIGHT = 4.7, 3.1
_LEGEND_ROW = 0.19
_SETTINGS: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.labelsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.5,
    "lines.markersize": 5,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    # Names of models and classes are no formulas, whatever signs they hold.
    "text.parse_math": False,
    # Letters of an SVG stay letters: they are found, copied and read aloud, and a file is a fifth as large.
    "svg.fonttype": "none",
    # Of numbers that are drawn alike, the files are alike.
    "svg.hashsalt": "hf_abkd",
}
_DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
_MARKERS = "osD^vPX*"
_NAMED: ContextVar[tuple[str, ...]] = ContextVar("named", default=())


@contextmanager
def drawing() -> Iterator[None]:
    """Draw in this look inside the block, and leave the settings of others as they are."""
    with mpl.rc_context(_SETTINGS), catch_warnings():
        # A page shows such signs in the letters of its reader; a PNG has a box in their place.
        filterwarnings("ignore", message=r"Glyph .* missing from font", category=UserWarning)
        yield


def new_axes(*, width: float = WIDTH, height: float = HEIGHT) -> tuple[Figure, Axes]:
    """Return a figure with one field in it; sizes are in inches. Call it inside of `drawing`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


@contextmanager
def one_look(names: Sequence[str]) -> Iterator[None]:
    """Give each of these names one look in all figures that are drawn inside of the block, whichever stand in each."""
    token = _NAMED.set(tuple(names))
    try:
        yield
    finally:
        _NAMED.reset(token)


def look_of(labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return colour, dashes and marker of each name; past eight names the colours come again, dashed."""
    names, rounds = list(dict.fromkeys(labels)), len(SERIES)
    named = _NAMED.get()
    others = [name for name in names if name not in named]
    # Beside a name whose colour is given no other one has it.
    behind = len(named) if len(others) < len(names) else 0
    numbers = {name: named.index(name) if name in named else behind + others.index(name) for name in names}
    return {
        name: {
            "color": SERIES[number % rounds],
            "linestyle": _DASHES[number // rounds % len(_DASHES)],
            "marker": _MARKERS[number % len(_MARKERS)],
        }
        for name, number in numbers.items()
    }


def add_legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Name what is drawn, below the field, in as many columns as the names leave room for."""
    if labels:
        longest = max(map(len, labels))
        columns = max(1, min(len(labels), 58 // (longest + 6)))
        # More rows of names make the figure higher, and not its field lower.
        rows = -(-len(labels) // columns)
        figure.set_figheight(figure.get_figheight() + _LEGEND_ROW * (rows - 1))
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, handlelength=1.8, columnspacing=1.4)
