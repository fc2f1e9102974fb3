"""What one of several processes does for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

T = TypeVar("T")


def on_first(action: Callable[[], T], accelerator: Accelerator) -> T:
    """Do something in the first process alone; return its result, or raise its error, in all of them.

    What each process found out by itself, of a folder that changes meanwhile, need not be the same, and one that stops
    alone leaves the others waiting.

    Args:
        action: What to do. Its result can be pickled.
        accelerator: To reach the other processes; call this in all of them.
    """
    outcome: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            outcome[0] = action()
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            outcome[1] = error
    if accelerator.num_processes > 1:
        broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    result: T = outcome[0]
    return result
