"""A new folder: there as a whole, or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_empty(folder: Path) -> None:
    """Refuse a folder with anything in it, which would be mixed with what is written.

    Raises:
        ValueError: If it is not empty, or is a file.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ValueError(f"the output folder {folder} is there and not empty: name another one, or remove it first")


@contextmanager
def new_folder(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Give a folder to write and one for what is not kept; put the first in place if nothing went wrong.

    Args:
        folder: The place; nothing or an empty folder is there.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        # Under its own name: transformers keeps the code of models by the name of their folder.
        made, beside = Path(scratch, folder.name), Path(scratch, "beside")
        made.mkdir()
        beside.mkdir()
        yield made, beside
        if folder.is_dir():
            folder.rmdir()
        made.rename(folder)
