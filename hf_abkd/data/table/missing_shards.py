"""Missing shards: those of a table that are not written yet, written by all processes of a run together."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from tqdm.auto import tqdm

from hf_abkd.data.machines import check_shared
from hf_abkd.data.table.shards import Shard
from hf_abkd.data.table.table_writer import TableWriter

logger = logging.getLogger(__name__)

#: Makes the rows of each of some shards, in their order, and reports how many rows of a shard were made.
Rows = Callable[[Sequence[Shard], Callable[[int], object]], Iterable[Iterable[Mapping[str, Any]]]]


def write_missing(table: TableWriter, rows: Rows, state: PartialState, *, doing: str) -> None:
    """Write the shards that are not done, every process its share of them, and wait for the others.

    Args:
        table: The table.
        rows: Makes the rows of shards.
        state: Which process this is.
        doing: What is done, for the bar.

    Raises:
        ValueError: If the folder of the table is not the same for all processes.
    """
    shards = table.shards
    missing = [shard for shard in shards if not shard.done]
    # A process that looked after another had written its first shard would share them out otherwise.
    state.wait_for_everyone()
    check_shared(table.work)
    share = missing[state.process_index :: state.num_processes]
    if len(missing) < len(shards) and state.is_main_process:
        done = _rows(shards, table) - _rows(missing, table)
        logger.warning("going on with %s.incomplete: %s rows of it are written", table.folder, f"{done:,}")
    with tqdm(total=_rows(share, table), unit="row", desc=doing, disable=not state.is_main_process) as progress:
        for shard, batches in zip(share, rows(share, progress.update), strict=True):
            table.write(shard, batches)
    state.wait_for_everyone()


def check_space(folder: Path, needed: int) -> str:
    """Return how much of its disk a folder will take, in words, and refuse it if there is not so much left.

    Args:
        folder: The folder, which need not be there.
        needed: The bytes.

    Raises:
        OSError: If there is too little space.
    """
    there = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise OSError(
            f"{folder} would take {size_text(needed)}, and {size_text(free)} are free there: choose a folder on "
            "another disk, or store less"
        )
    return f"{size_text(needed)} of {size_text(free)} that are free"


def size_text(size: int) -> str:
    """Return a number of bytes in words."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size / 1000:,.1f} kB"


def _rows(shards: Sequence[Shard], table: TableWriter) -> int:
    return sum(shard.stop - shard.start for shard in shards) * table.views
