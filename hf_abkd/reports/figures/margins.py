"""Margins: how far the responses of a layer lie from its activation boundary."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hf_abkd.reports.figures.theme import INK, add_legend, drawing, look_of, new_axes

# In deviations; what lies farther out is counted in the last bin, as it is far from the boundary all the same.
_REACH = 4.0
_BINS = 40


def margins(
    responses: Mapping[str, NDArray[np.floating]], quantity: str = "distance to the boundary (deviations)"
) -> Figure:
    """Draw how responses before an activation are distributed around 0, its boundary.

    Args:
        responses: Of each model, its responses in standard deviations.
        quantity: What they are, with the unit.

    Raises:
        ValueError: If a model has none.
    """
    if not responses or not all(len(values) for values in responses.values()):
        raise ValueError("there is no response to draw")
    look = look_of(list(responses))
    edges = np.linspace(-_REACH, _REACH, _BINS + 1)
    with drawing():
        figure, axes = new_axes()
        handles = []
        for label, values in responses.items():
            counts, _ = np.histogram(np.clip(values, -_REACH, _REACH), edges)
            shares = 100 * counts / len(values)
            handles.append(axes.stairs(shares, edges, color=look[label]["color"], linewidth=1.5))
        axes.axvline(0, color=INK, linewidth=1, linestyle=(0, (2, 2)))
        axes.set_xlim(-_REACH, _REACH)
        axes.set_xlabel(quantity)
        axes.set_ylabel("share of responses (%)")
        add_legend(figure, handles, list(responses))
    return figure
