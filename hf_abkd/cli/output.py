"""Output: what a command tells its user, on the standard output and at once."""

from __future__ import annotations

import sys


def write_line(text: str = "") -> None:
    """Write a line, or several that stand in one text, and wait for nothing: the user may see a long command work."""
    try:
        sys.stdout.write(text + "\n")
    except UnicodeEncodeError:
        # A job's log in another encoding than that of today: a sign that it does not have is no reason to end.
        encoding = sys.stdout.encoding or "ascii"
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding) + "\n")
    sys.stdout.flush()
