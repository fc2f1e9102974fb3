"""How messages and cards are worded: lists that end, numbers with their nouns, sizes, tables, nothing private."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

# Access tokens of the Hub, wherever they stand.
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}")
_HIDDEN = "<hidden>"


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


def duration(seconds: float) -> str:
    """Return a time in the units that one says it in.

    Example:
        >>> duration(48.3), duration(200), duration(5000)
        ('48 s', '3 min 20 s', '1 h 23 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def scaled(number: int) -> str:
    """Return a number in thousands, millions or billions, ready for a unit.

    Example:
        >>> scaled(40_813_184), scaled(12)
        ('40.8 M', '12 ')
    """
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:,} "


def by(sizes: Sequence[int]) -> str:
    """Return sizes as they are spoken of: "32x32"."""
    return "x".join(map(str, sizes))


def public_name(name: str) -> str:
    """Return what others may read of where a model or a data set comes from: of a path on this machine its last part.

    Paths tell readers nothing, and may tell more of the author's machine than they want to.

    Args:
        name: An id on the Hub, which is returned as it is, a path, or package.module:factory.

    Example:
        >>> public_name("/home/somebody/secret/flowers"), public_name("owner/flowers")
        ('flowers', 'owner/flowers')
    """
    like_a_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name
    if not name or not (like_a_path or Path(name).exists()):
        return name
    last = re.split(r"[/\\]", name.rstrip("/\\"))[-1]
    return Path(name).expanduser().resolve().name if last in ("", ".", "..", "~") else last


def without_tokens(text: str) -> str:
    """Return a text with every access token of the Hub hidden."""
    return _TOKEN.sub(_HIDDEN, text)


def shown_command(words: Iterable[str]) -> str:
    """Return the words of a command line as one types them, but with the values of tokens hidden.

    Example:
        >>> shown_command(["run.py", "--hub_token", "secret", "--output_dir", "my runs"])
        "run.py --hub_token '<hidden>' --output_dir 'my runs'"
    """
    shown, hides_next = [], False
    for word in words:
        flag, has_value, _ = word.partition("=")
        names_token = flag.startswith("-") and "token" in flag.lower()
        if hides_next and not word.startswith("-"):
            word = _HIDDEN
        elif names_token and has_value:
            word = f"{flag}={_HIDDEN}"
        hides_next = names_token and not has_value
        shown.append(shlex.quote(without_tokens(word)))
    return " ".join(shown)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; a cell may hold line breaks and bars, which become spaces and are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
