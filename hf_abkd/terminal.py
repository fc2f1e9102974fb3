"""Text as it is shown: with colours and lines on a terminal, and plain where it goes to a file, a pipe or a job's log.

What is plain has no control characters and no drawn lines, so that it can be searched, cut and pasted. `NO_COLOR` takes
the colours from a terminal, too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from hf_abkd.wording import markdown_table

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


def bars_are_seen() -> bool:
    """Whether a progress bar is drawn where somebody sees it; in a file it is a line of ten thousand characters."""
    return sys.stderr.isatty()


def styled(text: str, style: str = "") -> str:
    """Return a text as it is written to the standard output.

    Args:
        text: The text.
        style: What it looks like on a terminal, as rich calls it: "bold", "green". Numbers stand out if there is none.
    """
    console = _terminal()
    if console is None:
        return text
    from rich.text import Text

    return _drawn(console, Text(text, style=style) if style else console.render_str(text, markup=False, emoji=False))


def shown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table: Markdown, and on a terminal one with lines; what stands under a number is aligned to the right.

    Args:
        header: The titles of the columns.
        rows: The cells of each row; those of the first column name the row.
    """
    console = _terminal()
    if console is None:
        return markdown_table(header, rows)
    from rich import box
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for number, title in enumerate(header):
        drawn.add_column(title, justify="right" if number else "left", overflow="fold")
    for row in rows:
        # As text, so that brackets in a name are no markup.
        drawn.add_row(*map(Text, row))
    return _drawn(console, drawn)


def _terminal() -> Console | None:
    """Return what draws on the standard output; None where it is no terminal."""
    from rich.console import Console

    console = Console(file=sys.stdout, force_jupyter=False)
    return console if console.is_terminal else None


def _drawn(console: Console, what: RenderableType) -> str:
    with console.capture() as captured:
        console.print(what, soft_wrap=not hasattr(what, "columns"))
    return captured.get().rstrip("\n")
