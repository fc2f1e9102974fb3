"""Output: what a command tells its user, on the standard output and at once."""

from __future__ import annotations

import sys


def write_line(text: str = "") -> None:
    """Write a line, or several that stand in one text, and wait for nothing: the user may see a long command work."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
