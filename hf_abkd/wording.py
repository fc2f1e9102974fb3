"""How messages and cards are worded: lists that end, numbers with their nouns, sizes, tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def listed(items: Iterable[object], most: int = 5, *, quoted: bool = False, hint: str = "") -> str:
    """Return the first items as text, and how many were left out.

    Args:
        items: What is listed, in this order.
        most: How many are named.
        quoted: Whether each is named as Python writes it.
        hint: What is said behind the number of those left out, as "--all".

    Returns:
        "a, b and 3 more", or "none" of nothing.
    """
    texts = [repr(item) if quoted else str(item) for item in items]
    left_out = len(texts) - most
    more = f" and {left_out:,} more" + (f" ({hint})" if hint else "") if left_out > 0 else ""
    return (", ".join(texts[:most]) or "none") + more


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 image", "2,000 images"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def by(sizes: Sequence[int]) -> str:
    """Return sizes as they are spoken of: "32x32"."""
    return "x".join(map(str, sizes))


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; a cell may hold line breaks and bars, which become spaces and are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
