"""Files that are whole or not there: what is killed while it writes leaves the file of before, or none."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path beside a file to write to, and put what was written in the file's place when the block is over.

    The bytes are on the disk before the file gets its name. After an exception nothing has changed. What a killed
    process left is the caller's to find: `leftovers` names it.

    Args:
        path: The file. Its folder exists.
    """
    # A name of its own for every attempt, so that two processes cannot mix their bytes.
    scratch = path.with_name(f".{path.name}-{uuid4().hex}.unfinished")
    try:
        yield scratch
        with scratch.open("rb") as written:
            os.fsync(written.fileno())
        as_others(scratch)
        scratch.replace(path)
        sync_folder(path.parent)
    finally:
        scratch.unlink(missing_ok=True)


def as_others(path: Path) -> None:
    """Give a file the rights that any new file has here; safetensors lets its owner alone read what it writes."""
    if os.name == "nt":
        return
    path.chmod(0o666 & ~_mask())


@cache
def _mask() -> int:
    # There is no other way to ask for it than to set it, for all threads: once is enough.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def leftovers(folder: Path, name: str = "*") -> list[Path]:
    """Return what killed processes left in a folder of files that they were writing.

    Args:
        folder: The folder.
        name: The name of the file that was to be written; by default any.
    """
    return sorted(folder.glob(f".{name}-*.unfinished"))


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with whole_file(path) as scratch:
        scratch.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk: a file that was renamed keeps its new name after a power cut."""
    if os.name == "nt":
        # Windows cannot open a folder; it writes names through.
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
