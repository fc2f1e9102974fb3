"""A program as its user meets it: what they did wrong in a line or two, how to go on, and our mistakes in full."""

from __future__ import annotations

import dis
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hf_abkd.cli.command_again import command_again, end_with_launcher
from hf_abkd.cli.quiet import quiet_libraries
from hf_abkd.wording import without_tokens

#: The exit status of a program whose user made a mistake, of one that Ctrl-C interrupted, and of one that was asked to
#: end by SIGTERM. What the program itself returns is its own: 0, or 1 where it looked for something and found it.
MISTAKE, INTERRUPTED, TERMINATED = 2, 128 + signal.SIGINT, 128 + signal.SIGTERM
# Values of the flag of transformers that is called --debug too.
_DEBUG_VALUES = ("underflow_overflow", "tpu_metrics_debug")
_LOGIN = "log in by `hf auth login`, or pass a token that may do this (--hub_token to upload, --token to download)"
# A command to copy has a line of its own; more lines are a report of somebody else's.
_LINES = 3
# How long the first process has to speak before another one does, in seconds; a launcher ends the others meanwhile.
_PATIENCE = 3


def run_script(main: Callable[[], int | None]) -> int:
    """Run a script of the examples and return its exit status; `--debug` and `--verbose` leave `sys.argv`."""
    sys.argv[1:], switches = without_switches(sys.argv[1:])
    if "verbose" not in switches:
        quiet_libraries()
    return run_program(main, name=Path(sys.argv[0]).name, debug="debug" in switches, goes_on=True)


def run_program(main: Callable[[], int | None], *, name: str, debug: bool, goes_on: bool) -> int:
    """Run a program, and return its exit status.

    A mistake of the user is told in a line or two. What no check foresaw is a mistake of ours and keeps its traceback.

    Args:
        main: The program.
        name: What it is called.
        debug: Whether mistakes of the user keep their traceback, too.
        goes_on: Whether the same command, given again, goes on where it was interrupted.

    Raises:
        SystemExit: If the user made a mistake or interrupted it.
    """
    end_with_launcher()
    try:
        return main() or 0
    except KeyboardInterrupt:
        if debug:
            raise
        _tell_end("interrupted", name, goes_on=goes_on)
        raise SystemExit(INTERRUPTED) from None
    except SystemExit as end:
        if end.code == TERMINATED:
            _tell_end("ended by SIGTERM", name, goes_on=goes_on)
        raise
    except Exception as error:
        if debug or not is_mistake(error):
            raise
        _tell(f"{name}: {told(error)}")
        raise SystemExit(MISTAKE) from None


def without_switches(words: Sequence[str]) -> tuple[list[str], set[str]]:
    """Return words without `--debug` and `--verbose`, and which were among them; `--debug VALUE` is transformers' own.

    Example:
        >>> without_switches(["cache", "--debug", "--flip", "--verbose", "--debug", "underflow_overflow"])[0]
        ['cache', '--flip', '--debug', 'underflow_overflow']
    """
    following = [*words[1:], ""]
    found = [
        word in ("--debug", "--verbose") and not (word == "--debug" and next_word in _DEBUG_VALUES)
        for word, next_word in zip(words, following, strict=False)
    ]
    kept = [word for word, is_switch in zip(words, found, strict=True) if not is_switch]
    return kept, {word[2:] for word, is_switch in zip(words, found, strict=True) if is_switch}


def is_mistake(error: Exception) -> bool:
    """Whether an exception tells of what a user did or has, and not of a mistake in a program.

    Files, the Hub and packages that are missing are the user's. Other exceptions are if a check raised them: an
    operation that failed, such as one of torch on tensors that do not fit, was foreseen by nobody.
    """
    if isinstance(error, (OSError, ImportError)) or _is_of_the_hub(error) or _is_out_of_memory(error):
        return True
    return isinstance(error, (ValueError, TypeError, RuntimeError)) and _was_raised_by_a_statement(error)


def told(error: Exception) -> str:
    """Return what a user is told of a mistake."""
    text = str(error).strip() or repr(error)
    if _is_of_the_hub(error):
        return _refusal(error) or f"the Hub does not do what was asked: {_few_lines(text)}"
    if _is_out_of_memory(error):
        return (
            "the memory of the GPU is full: make --per_device_train_batch_size smaller (and "
            f"--gradient_accumulation_steps larger), or use --bf16. {str(error).splitlines()[0]}"
        )
    return _few_lines(text)


def _few_lines(text: str) -> str:
    """Return a text of many lines as one."""
    return text if text.count("\n") < _LINES else " ".join(text.split())


def _tell_end(how: str, name: str, *, goes_on: bool) -> None:
    """Say that a program was ended, and which command goes on; of several processes, which end together, the first."""
    if os.environ.get("RANK", "0") == "0":
        _tell(f"{name}: {how}" + (f". To go on from what is saved:\n  {command_again()}" if goes_on else ""))


def _tell(line: str) -> None:
    """Write a line to the standard error, once however many processes found the same."""
    rank = os.environ.get("RANK", "0")
    if rank != "0":
        time.sleep(_PATIENCE)
        line = f"process {rank}: {line}"
    sys.stderr.write(without_tokens(line) + "\n")
    sys.stderr.flush()


def _was_raised_by_a_statement(error: Exception) -> bool:
    """Whether the innermost frame was at a `raise`, and not at an operation that failed."""
    trace = error.__traceback__
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def _is_of_the_hub(error: Exception) -> bool:
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    # The first base is the error of the HTTP library, which stands for a connection that failed, too.
    return isinstance(error, (HfHubHTTPError.__bases__[0], LocalTokenNotFoundError))


def _refusal(error: Exception) -> str | None:
    """Return what to do where the Hub does not know the user or does not let them; None where it is something else."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    if isinstance(error, LocalTokenNotFoundError):
        return f"the Hub asks who you are: {_LOGIN}"
    if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
        request = error.response.request
        return f"the Hub refuses {request.method} {request.url} ({error.response.status_code}): {_LOGIN}"
    return None


def _is_out_of_memory(error: Exception) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)
