"""Settings: numbers that a user gives, refused by their name where they are none, not finite, or out of range."""

from __future__ import annotations

import math
from numbers import Integral, Real


def number(
    name: str,
    value: object,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> float:
    """Return a number as one of Python, a whole one as an int.

    Args:
        name: What the setting is called.
        value: What was given: a number of Python or numpy, but no bool.
        least: The least it may be.
        above: What it has to be above.
        most: The most it may be.
        below: What it has to be below.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is not finite, or out of range.

    Example:
        >>> number("margin", 2, above=0)
        2
        >>> number("probability", 1.5, least=0, most=1)
        Traceback (most recent call last):
        ...
        ValueError: probability must be in [0, 1], got 1.5
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    low, high = (above if least is None else least), (below if most is None else most)
    plain = int(value) if isinstance(value, Integral) else float(value)
    inside = (low is None or plain >= low) and (high is None or plain <= high)
    if not inside or not math.isfinite(plain) or plain in (above, below):
        raise ValueError(f"{name} must be {_range(least, above, most, below)}, got {plain}")
    return plain


def whole_number(name: str, value: object, *, least: int | None = None, most: int | None = None) -> int:
    """Return a whole number as an int; 10.0 is one.

    Args:
        name: What the setting is called.
        value: What was given.
        least: The least it may be.
        most: The most it may be.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is not whole, or out of range.

    Example:
        >>> whole_number("views", 4.0, least=1)
        4
        >>> whole_number("views", 0, least=1)
        Traceback (most recent call last):
        ...
        ValueError: views must be a whole number, 1 or more, got 0
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    plain = float(value)
    inside = (least is None or plain >= least) and (most is None or plain <= most)
    if not inside or not math.isfinite(plain) or plain % 1:
        bounds = "" if least is None else f", {least} or more" if most is None else f" from {least} to {most}"
        raise ValueError(f"{name} must be a whole number{bounds}, got {value}")
    return int(value)  # type: ignore[call-overload,no-any-return]


def _range(least: float | None, above: float | None, most: float | None, below: float | None) -> str:
    """Return which numbers are allowed, in words."""
    low, high = (above if least is None else least), (below if most is None else most)
    if high is not None:
        opened = "(" if least is None else "["
        return f"in {opened}{'-inf' if low is None else f'{low:g}'}, {high:g}{')' if most is None else ']'}"
    if low is None:
        return "finite"
    if low == 0:
        return "finite and not negative" if least is not None else "positive and finite"
    return f"finite and {'above' if least is None else 'at least'} {low:g}"
