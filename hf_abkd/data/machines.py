"""Machines: which of those that run the processes of a run see the same files."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import torch
from accelerate.utils import broadcast_object_list, gather_object

from hf_abkd.wording import listed

_LOOKS = 10
_SECONDS_BETWEEN_LOOKS = 0.2


def hosts_where(is_so: bool) -> list[str]:
    """Return the names of the machines of the processes that say so, in order; all of them have to call it."""
    said = [socket.gethostname()] if is_so else []
    return sorted(set(gather_object(said) if _together() else said))


def hosts_without(folder: Path) -> list[str]:
    """Return the names of the machines on which a folder is another one than for the first process.

    All processes have to call it. Something is written there for a moment.

    Args:
        folder: The folder, which the first process can write to.
    """
    if not _together():
        return []
    probe, is_first = [f".probe-{uuid4().hex}"], torch.distributed.get_rank() == 0
    if is_first:
        (folder / probe[0]).touch()
    broadcast_object_list(probe)
    hosts = hosts_where(not _appears(folder / probe[0]))
    if is_first:
        (folder / probe[0]).unlink(missing_ok=True)
    return hosts


def check_shared(folder: Path) -> None:
    """Check that all processes see one folder, into which each of them is going to write a part.

    Raises:
        ValueError: In all of them, if some see another one.
    """
    _refuse_apart(folder, hosts_without(folder))


def found_by_all(path: Path) -> bool:
    """Return whether a file is there, which all processes find or none of them.

    Raises:
        ValueError: In all of them, if some find it.
    """
    is_there = path.is_file()
    without = hosts_where(not is_there)
    if hosts_where(is_there):
        _refuse_apart(path.parent, without)
    return is_there


def _refuse_apart(folder: Path, hosts: Sequence[str]) -> None:
    if hosts:
        raise ValueError(
            f"{folder} is another folder on {listed(hosts)}, and each process writes a share of it: choose one on a "
            "file system that all machines share, or write it on one machine and copy it to the others"
        )


def _appears(path: Path) -> bool:
    """Whether a file is there, or soon will be: a file system of several machines may take a moment."""
    for _ in range(_LOOKS):
        if path.is_file():
            return True
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    return path.is_file()


def _together() -> bool:
    available = torch.distributed.is_available() and torch.distributed.is_initialized()
    return available and torch.distributed.get_world_size() > 1
