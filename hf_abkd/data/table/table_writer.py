"""TableWriter: writes a table shard by shard, goes on with one that was interrupted, and puts it in its place whole.

While a table is written everything is below `<folder>.incomplete/.table`, which `load_dataset` does not look into, and
the manifest of what is being written is `<folder>.incomplete/.hf_abkd_cache.json`. See
`hf_abkd.data.table.target_table` for what a finished table consists of.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import numpy as np

from hf_abkd.data.table.columns import Column, row_fields, table_fields
from hf_abkd.data.table.manifest import (
    BEGUN_NAME,
    CARD_NAME,
    FORMAT,
    INDEX_NAME,
    MANIFEST_NAME,
    BegunManifest,
    FinishedManifest,
    ShardSize,
    as_json,
    check_names,
    incomplete,
    manifest_differences,
    manifest_json,
    read_manifest,
)
from hf_abkd.data.table.row_blocks import RowBlocks
from hf_abkd.data.table.shards import Shard, map_blocks, shard_name, write_blocks
from hf_abkd.data.table.table_card import table_card
from hf_abkd.data.table.target_table import TargetTable
from hf_abkd.files import leftovers, sync_folder, whole_file, write_json, write_text
from hf_abkd.wording import listed

_SHARD_BYTES = (4 * 2**20, 256 * 2**20)
_SHARES = 16

Card: TypeAlias = Callable[[Sequence[tuple[str, str, str, int]], int, int, str, Mapping[str, Any]], str]


class TableWriter:
    """Write a table, shard by shard; go on with one that was interrupted.

    Several processes may each have a writer of the same folder at once and write different shards.

    Args:
        folder: Where the finished table will be.
        identity: What the targets depend on (teacher, data set, preparation of the images, ...), in values that JSON
            has. A table is only gone on with if its identity is the same.
        columns: The teacher's targets.
        samples: How many samples the table will have.
        views: How many views of each.
        shard_bytes: About how large a shard is: what is lost at most when a writer is killed, and what processes share
            out. By default a sixteenth of the table, from 4 to 256 MiB. A table that was begun before keeps the size.

    Raises:
        FileExistsError: If the folder is a finished table, or one of these folders holds something else.
        ValueError: If another table was begun there, or the columns share a name or number of samples and views is
            not positive.
        TypeError: If JSON cannot hold the identity.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        identity: Mapping[str, Any],
        columns: Sequence[Column],
        samples: int,
        views: int,
        shard_bytes: int | None = None,
    ) -> None:
        self.folder = Path(folder).resolve()
        if min(samples, views, 1 if shard_bytes is None else shard_bytes) < 1:
            raise ValueError(f"samples, views and shard_bytes must be positive, got {samples}, {views}, {shard_bytes}")
        self._check_free()
        sample_bytes = views * sum(field.row_bytes for field in table_fields(columns))
        if shard_bytes is None:
            least, most = _SHARD_BYTES
            shard_bytes = min(most, max(least, samples * sample_bytes // _SHARES))
        #: Where it is written until it is complete.
        self.work = incomplete(self.folder)
        self._manifest = self._begin(
            BegunManifest(
                FORMAT, as_json(identity), tuple(columns), samples, views, max(1, shard_bytes // sample_bytes)
            )
        )
        # In the order they were begun with, which is that of the shards that are done.
        self.columns = self._manifest.columns
        self.samples, self.views = samples, views
        self._blocks = RowBlocks(self.columns, views)
        self._samples_per_shard = self._manifest.samples_per_shard
        self._table = self.work / ".table"
        (self._table / "data").mkdir(parents=True, exist_ok=True)

    def _begin(self, manifest: BegunManifest) -> BegunManifest:
        """Make the folder to write in, or check the one that is there; return its manifest."""
        path = self.work / BEGUN_NAME
        if not path.is_file():
            # Renaming a folder that has its manifest fails if another process was first, and is never half done.
            scratch = self.work.with_name(f".{self.work.name}-{uuid4().hex}")
            try:
                scratch.mkdir(parents=True)
                write_json(scratch / path.name, manifest_json(manifest))
                scratch.rename(self.work)
            except OSError as error:
                if not self.work.exists():
                    raise
                if not path.is_file():
                    raise FileExistsError(
                        f"{self.work}, in which the table would be written, holds something else: move it away"
                    ) from error
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        begun = read_manifest(path, BegunManifest)
        if differences := manifest_differences(begun, manifest):
            raise ValueError(
                f"{self.work} was begun for another table and cannot be gone on with:\n  "
                + "\n  ".join(differences)
                + "\nDelete that folder, or choose another one for this table"
            )
        return begun

    def _check_free(self) -> None:
        if (self.folder / MANIFEST_NAME).is_file():
            raise FileExistsError(
                f"{self.folder} holds a table that is complete: use it (TargetTable.open), or delete the folder or "
                "choose another to write a new one"
            )
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise FileExistsError(f"{self.folder} exists and is no table: choose a folder that is empty or not there")

    @property
    def missing_bytes(self) -> int:
        """About how many bytes the shards take that are not written yet."""
        missing = sum(shard.stop - shard.start for shard in self.shards if not shard.done)
        return missing * self._blocks.sample_bytes

    @property
    def shards(self) -> list[Shard]:
        """The parts of the table, and which of them lie on disk."""
        bounds = [*range(0, self.samples, self._samples_per_shard), self.samples]
        return [
            Shard(index, start, stop, self._path(index).is_file())
            for index, (start, stop) in enumerate(pairwise(bounds))
        ]

    def write(self, shard: Shard, batches: Iterable[Mapping[str, Any]]) -> None:
        """Write one shard, whole or not at all.

        Args:
            shard: One of `shards` that is not done.
            batches: Arrays of any number of rows n, which together are the rows of the shard in their order. Each
                has `sample_id` (n, int64), `view` (n, int32), `pixels` (n, int64) and every column, as
                `TargetTable.read` returns it.

        Raises:
            ValueError: If an array is missing, of another dtype or width, holds what is no target (float16 that is
                not finite, for example), or the rows are not those of the shard in their order.
            RuntimeError: If the shard is done already, or was written by two processes at once.
        """
        path = self._path(shard.index)
        if path.is_file():
            raise RuntimeError(
                f"shard {shard.index} of {self.folder} is done; write those of writer.shards that are not"
            )
        # Left by a run that was killed.
        for leftover in path.parent.glob(f".{path.name}-*"):
            leftover.unlink(missing_ok=True)
        written = False
        try:
            with whole_file(path) as scratch:
                write_blocks(scratch, self._blocks.cut(shard, batches), self._blocks.fields)
                written = True
        except FileNotFoundError as error:
            # Before that, it is something else that was not found: an image, for example.
            if not written:
                raise
            raise RuntimeError(f"another process writes shard {shard.index} of {self.folder} too") from error

    def finish(
        self, card_facts: Mapping[str, Any], files: Mapping[str, str] | None = None, card: Card = table_card
    ) -> TargetTable:
        """Put the finished table in its place, which is the last thing done, and open it. For one process alone.

        Args:
            card_facts: What the card says of how the table was made, the `facts` of
                `hf_abkd.data.table.table_card.table_card`.
            files: The text of further files, by their names (which end in `.json` or `.md`).
            card: Writes the card; takes what `table_card` does.

        Raises:
            RuntimeError: If shards are missing.
            ValueError: If a shard is damaged, or a name is no plain file name or taken by the table.
        """
        files = dict(files or {})
        check_names(files, self.folder)
        self._check_free()
        shards = self.shards
        if missing := [shard.index for shard in shards if not shard.done]:
            raise RuntimeError(
                f"{len(missing)} of {len(shards)} shards of {self.folder} are not written yet: {listed(missing)}; run "
                "the same command again"
            )
        # Of an image that the data set has twice the first position counts: np.unique returns the first.
        self._write_index(np.stack(np.unique(self._sample_ids(), return_index=True)))
        write_json(self._table / MANIFEST_NAME, manifest_json(self._finished(shards, sorted(files))))
        for name, text in {CARD_NAME: self._card(card, card_facts), **files}.items():
            write_text(self._table / name, text)
        # Left by runs that were killed, in files that are whole by now.
        for leftover in [*self._table.glob("data/.*"), *leftovers(self._table)]:
            leftover.unlink()
        sync_folder(self._table)
        self._table.replace(self.folder)
        sync_folder(self.folder.parent)
        shutil.rmtree(self.work)
        return TargetTable.open(self.folder)

    def _finished(self, shards: Sequence[Shard], files: Sequence[str]) -> FinishedManifest:
        sizes = [ShardSize(shard.stop - shard.start, self._path(shard.index).stat().st_size) for shard in shards]
        begun = self._manifest
        return FinishedManifest(
            begun.format, begun.identity, begun.columns, begun.samples, begun.views, tuple(sizes), tuple(files)
        )

    def _sample_ids(self) -> np.ndarray:
        """Return the id of every sample, which alone is held in memory: 8 bytes for each."""
        ids = np.empty(self.samples, np.int64)
        for shard in self.shards:
            try:
                blocks = map_blocks(
                    self._path(shard.index), self._blocks.fields, (shard.stop - shard.start) * self.views
                )
            except ValueError as error:
                raise ValueError(f"{error}. Delete this file and run the same command again") from error
            ids[shard.start : shard.stop] = np.concatenate([block["sample_id"][:: self.views] for block in blocks])
        return ids

    def _write_index(self, index: np.ndarray) -> None:
        with whole_file(self._table / INDEX_NAME) as scratch, scratch.open("wb") as file:
            np.save(file, index, allow_pickle=False)

    def _card(self, card: Card, facts: Mapping[str, Any]) -> str:
        pattern = f"data/train-*-of-{len(self.shards):05d}.arrow"
        rows = [
            *((field.name, field.dtype.name, "()", field.row_bytes) for field in row_fields()),
            *((column.name, column.kind, column.shape_text, column.row_bytes) for column in self.columns),
        ]
        return card(rows, self.samples, self.views, pattern, facts)

    def _path(self, shard: int) -> Path:
        return self._table / shard_name(shard, -(-self.samples // self._samples_per_shard))
