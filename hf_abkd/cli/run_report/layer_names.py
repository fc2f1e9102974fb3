"""Names of layers as a legend has room for them: without what all of them begin and end with."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

_MOST = 32


def short_layers(names: Sequence[str]) -> dict[str, str]:
    """Return a short name for each layer; the last part that all begin with stays, as it says what the numbers count.

    Args:
        names: The names, with dots between their parts.

    Example:
        >>> short_layers(["vit.layers.0.mlp.act", "vit.layers.1.mlp.act"])
        {'vit.layers.0.mlp.act': 'layers.0', 'vit.layers.1.mlp.act': 'layers.1'}
    """
    parts = {name: name.split(".") for name in names}
    if len(parts) < 2:
        return {name: _cut(name) for name in parts}
    shortest = min(map(len, parts.values()))
    begin = min(_alike(list(parts.values())), shortest - 1)
    end = min(_alike([one[::-1] for one in parts.values()]), shortest - begin - 1)
    return {name: _cut(".".join(one[max(0, begin - 1) : len(one) - end])) for name, one in parts.items()}


def _alike(lists: Sequence[Sequence[str]]) -> int:
    """Return how many parts all lists begin with."""
    return len(list(takewhile(lambda column: len(set(column)) == 1, zip(*lists, strict=False))))


def _cut(name: str) -> str:
    """Return a name with its middle left out, if it is long."""
    half = _MOST // 2
    return name if len(name) <= _MOST else f"{name[: half - 1]}…{name[-half:]}"
