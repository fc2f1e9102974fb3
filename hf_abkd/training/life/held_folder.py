"""The folder of a run while it runs: written to by this run alone, and found to be writable before the first step."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from accelerate import Accelerator
from torch import nn

from hf_abkd.data.machines import hosts_without
from hf_abkd.training.life.together import on_first
from hf_abkd.wording import listed

RUNNING_NAME = ".running.json"
_HELD: set[Path] = set()

logger = logging.getLogger(__name__)


@contextmanager
def writing(folder: Path, size: int, accelerator: Accelerator, *, saves: bool) -> Iterator[None]:
    """Keep a folder for a run of all processes meanwhile, after it was found that the run can write there.

    Args:
        folder: The folder.
        size: About how many bytes a checkpoint takes.
        accelerator: To reach the other processes.
        saves: Whether the run writes checkpoints; one that writes none may run all the same, and is warned.

    Raises:
        RuntimeError: If it cannot, or another run is in it.
    """
    with ExitStack() as stack:

        def take() -> None:
            try:
                check_writable(folder, size if saves else 0)
            except RuntimeError as error:
                if saves:
                    raise
                logger.warning("%s", error)
                return
            stack.enter_context(held(folder))

        on_first(take, accelerator)
        if saves and (elsewhere := hosts_without(folder)) and accelerator.is_main_process:
            logger.warning(
                "the output folder %s of this machine is not that of %s: the student and its checkpoints are written "
                "here alone, and the checkpoints lack the random states of the processes there, so that the run cannot "
                "be gone on with. Choose an output_dir on a file system that all machines share, or set "
                "save_strategy='no'",
                folder.absolute(),
                listed(elsewhere),
            )
        yield


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep every other process from running in a folder meanwhile.

    The lock goes with the process that holds it, however it ends; of a file system without locks nothing is asked.

    Raises:
        RuntimeError: If another run is in it.
    """
    path = folder.resolve() / RUNNING_NAME
    if os.name == "nt" or path in _HELD:
        # Windows has no such locks. A run inside of another one of this process is of its own making.
        yield
        return
    handle = _lock(path)
    _HELD.add(path)
    try:
        yield
    finally:
        _HELD.discard(path)
        if handle is not None:
            # First the name, then the lock: who opens it meanwhile sees that it is another file.
            path.unlink(missing_ok=True)
            os.close(handle)


def _lock(path: Path) -> int | None:
    """Return the open file of a lock that this process has now; None where the file system has no locks."""
    import fcntl

    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            # Of the process, and not of the open file: workers of data loaders outlive a kill by seconds.
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(handle, 1000).decode(errors="replace")
            os.close(handle)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                return None
            raise RuntimeError(
                f"another run is in {path.parent}{_told(holder)}: two runs would delete each other's checkpoints. Wait "
                "for its end, or choose another output_dir."
            ) from error
        with suppress(FileNotFoundError):
            if os.fstat(handle).st_ino == path.stat().st_ino:
                break
        os.close(handle)
    os.ftruncate(handle, 0)
    os.write(handle, json.dumps({"process": os.getpid(), "host": socket.gethostname()}).encode())
    return handle


def _told(holder: str) -> str:
    """Return who holds a lock, as text."""
    try:
        found = json.loads(holder)
        return f" (process {found['process']} on {found['host']})"
    except (ValueError, KeyError, TypeError):
        return ""


def check_writable(folder: Path, size: int) -> None:
    """Check that a run can write into its folder, by writing, and that a checkpoint fits there.

    Args:
        folder: The folder; it is made.
        size: About how many bytes a checkpoint takes; 0 without checkpoints.

    Raises:
        RuntimeError: If it cannot be written to, or has too little space.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{uuid4().hex}"
        try:
            probe.write_bytes(b"can this be written to?")
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise RuntimeError(
            f"the output folder {folder} cannot be written to ({error.strerror or error}): nothing of the run could "
            "be kept. Choose another output_dir, or make room and permission there."
        ) from error
    free = shutil.disk_usage(folder).free
    if free < size:
        inside = size_of(folder)
        own = f"; what lies in it takes {_bytes(inside)}" if inside else ""
        raise RuntimeError(
            f"the disk of the output folder {folder} has {_bytes(free)} free, and a checkpoint of this run takes about "
            f"{_bytes(size)}: free {_bytes(size - free)} there{own}, or choose an output_dir on another disk."
        )


def checkpoint_size(student: nn.Module) -> int:
    """Return about how many bytes a checkpoint takes: the student, and two numbers per trained weight by Adam."""
    weights: int = sum(tensor.numel() * tensor.element_size() for tensor in student.state_dict().values())
    trained: int = sum(p.numel() * p.element_size() for p in student.parameters() if p.requires_grad)
    return weights + 2 * trained


def size_of(folder: Path) -> int:
    """Return how many bytes the files in a folder take."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def _bytes(number: int) -> str:
    """Return a number of bytes as text."""
    value = float(number)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
