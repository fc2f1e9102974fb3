"""Commands that one process runs, whatever starts them."""

from __future__ import annotations

import os


def check_one_process(command: str) -> None:
    """Refuse a launcher that starts several processes, each of which would do the same.

    Args:
        command: The name of the command.

    Raises:
        RuntimeError: If there are several.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RuntimeError(f"{command} runs in one process: call it without a launcher")
