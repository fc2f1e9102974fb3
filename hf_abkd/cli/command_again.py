"""The command that a process was started by, as one types it again to go on; and the launcher that stands above it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from hf_abkd.wording import shown_command

# What the launchers of accelerate and torch set in the processes that they start.
_LAUNCHED = ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")
_LAUNCHERS = {"accelerate", "accelerate-launch", "accelerate.commands.launch", "torchrun", "torch.distributed.run"}
# What would begin again, or go on from another checkpoint than that of the interruption: as a flag with its value, and
# as what is changed in a recipe.
_BEGINS = ("overwrite_output_dir", "resume_from_checkpoint")
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl


def command_again() -> str:
    """Return the command that goes on with what this process did, to be copied; values of tokens are hidden."""
    return shown_command(_that_goes_on(_as_typed(_launcher() or sys.orig_argv)))


def end_with_launcher() -> None:
    """Have a process that `accelerate launch` started alone be sent SIGTERM when that command ends; on Linux only.

    The command does not hand a SIGTERM on: the run would train on, alone, while a scheduler believes that it has ended.
    With several processes the launcher does so itself.
    """
    if sys.platform == "linux" and "TORCHELASTIC_RUN_ID" not in os.environ and _launcher() is not None:
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, int(signal.SIGTERM))


@cache
def _launcher() -> list[str] | None:
    """Return the words of the launcher that started this process, once, as it may be gone at the end; None without."""
    if not any(name in os.environ for name in _LAUNCHED):
        return None
    import psutil

    try:
        words: list[str] = psutil.Process(os.getppid()).cmdline()
    except psutil.Error:
        return None
    return words if any(Path(word).name in _LAUNCHERS for word in words[:4]) else None


def _as_typed(words: Sequence[str]) -> list[str]:
    """Return words without the path of the interpreter, and without it before a program that was installed.

    Example:
        >>> _as_typed(["/opt/venv/bin/python3", "/opt/venv/bin/accelerate", "launch", "run.py"])
        ['accelerate', 'launch', 'run.py']
    """
    interpreter, *rest = words
    if rest and Path(rest[0]).parent == Path(interpreter).parent and Path(rest[0]).is_absolute():
        return [Path(rest[0]).name, *rest[1:]]
    return [Path(interpreter).name, *rest]


def _that_goes_on(words: Sequence[str]) -> list[str]:
    """Return words without flags that would begin again."""
    kept: list[str] = []
    leaves_out = False
    for word in words:
        if word.startswith("-"):
            leaves_out = word.partition("=")[0].replace("-", "_").lstrip("_") in _BEGINS
            if leaves_out:
                leaves_out = "=" not in word
                continue
        elif leaves_out:
            # The value of the flag, which has one or none.
            leaves_out = False
            continue
        elif word.partition("=")[0] in [f"training.{name}" for name in _BEGINS]:
            continue
        kept.append(word)
    return kept
