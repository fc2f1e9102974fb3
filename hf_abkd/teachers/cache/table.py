"""A teacher's targets on disk: rows of equal width in memory-mapped Arrow files, found by the hash of the image.

A finished table is a data set folder that `datasets.load_dataset` and the Hub read as it is:

    README.md                          the card, which names the shards
    data/train-00000-of-00008.arrow    the rows: sample after sample, the views of a sample next to each other
    index.npy                          sample ids in order, and the positions of the samples
    hf_abkd_cache.json                 the manifest: identity, columns, sizes

While it is written everything is below `<folder>.incomplete/.table`, which `load_dataset` does not look into, and
the manifest of what is being written is `<folder>.incomplete/.hf_abkd_cache.json`.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args
from uuid import uuid4

import numpy as np
import pyarrow as pa
from datasets import Features, List, Value
from huggingface_hub import CommitInfo, HfApi, snapshot_download

from hf_abkd.teachers.cache.card import table_card
from hf_abkd.version import __version__

MANIFEST_NAME = "hf_abkd_cache.json"
INDEX_NAME = "index.npy"
CARD_NAME = "README.md"
FORMAT = 1
SHARD_BYTES = (4 * 2**20, 256 * 2**20)
_SHARES = 16
# Of one record batch, which is what a writer holds in memory and a streaming reader loads at once.
_BATCH_BYTES = 16 * 2**20
_INFINITY = 0x7C00  # the exponent of a float16 that is infinite or not a number
_RESERVED = ("sample_id", "view", "pixels")

Kind = Literal["bits", "float16", "logits", "topk"]


@dataclass(frozen=True)
class Column:
    """One target of the teacher.

    A row of it is, on disk and as `TargetTable.read` returns it:

    - "bits": one bit for each element of `shape`, in its order, eight to a byte with the first in the lowest bit
      (`numpy.packbits(..., bitorder="little")`); the bits that fill the last byte are 0.
    - "float16": an array of `shape`.
    - "logits": K values in float16, `shape` (K,).
    - "topk": of K logits the k largest, `shape` (k, K): `values` (k float16), `indices` (k int32) and `rest`, the
      logsumexp of those that were left out (float32; minus infinity if none were).

    Raises:
        ValueError: If the name is empty or reserved, the kind unknown, or the shape not one of that kind.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check name, kind and shape."""
        object.__setattr__(self, "shape", tuple(self.shape))
        if not isinstance(self.name, str) or not self.name or self.name in _RESERVED:
            raise ValueError(f"a column needs a name other than {list(_RESERVED)}, got {self.name!r}")
        if self.kind not in get_args(Kind):
            raise ValueError(f"column {self.name!r}: kind must be one of {list(get_args(Kind))}, got {self.kind!r}")
        dimensions = {"logits": 1, "topk": 2}.get(self.kind, len(self.shape))
        whole = all(type(size) is int and size > 0 for size in self.shape)
        if not self.shape or not whole or len(self.shape) != dimensions:
            raise ValueError(
                f"column {self.name!r} of kind {self.kind!r}: shape must be "
                f"{ {'logits': '(K,)', 'topk': '(k, K)'}.get(self.kind, 'that of a row, without the batch') } in "
                f"positive whole numbers, got {self.shape}"
            )
        if self.kind == "topk" and self.shape[0] > self.shape[1]:
            raise ValueError(f"column {self.name!r}: there are no {self.shape[0]} largest of {self.shape[1]} logits")

    @property
    def row_bytes(self) -> int:
        """How many bytes a row takes."""
        return sum(field.row_bytes for field in _column_fields(self))

    def to_json(self) -> dict[str, Any]:
        """Return the column as JSON holds it."""
        return {"name": self.name, "kind": self.kind, "shape": list(self.shape)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Column:
        """Return the column that `to_json` wrote.

        Raises:
            ValueError: If it is none.
        """
        if not isinstance(data, Mapping) or set(data) != {"name", "kind", "shape"}:
            raise ValueError(f"a column has name, kind and shape, got {data!r}")
        return cls(data["name"], data["kind"], data["shape"])


@dataclass(frozen=True)
class Shard:
    """A part of the table that is written at once: the samples from `start` to before `stop`."""

    index: int
    start: int
    stop: int
    done: bool


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
        self._sample_bytes = views * sum(field.row_bytes for field in _table_fields(columns))
        if shard_bytes is None:
            least, most = SHARD_BYTES
            shard_bytes = min(most, max(least, samples * self._sample_bytes // _SHARES))
        self._work = _incomplete(self.folder)
        self._manifest = self._begin(
            {
                "format": FORMAT,
                "identity": _as_json(identity),
                "columns": [column.to_json() for column in columns],
                "samples": samples,
                "views": views,
                "samples_per_shard": max(1, shard_bytes // self._sample_bytes),
            }
        )
        # In the order they were begun with, which is that of the shards that are done.
        self.columns = tuple(map(Column.from_json, self._manifest["columns"]))
        self.samples, self.views = samples, views
        self._fields = _table_fields(self.columns)
        self._samples_per_shard: int = self._manifest.pop("samples_per_shard")
        self._shards = -(-samples // self._samples_per_shard)
        self._table = self._work / ".table"
        (self._table / "data").mkdir(parents=True, exist_ok=True)

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
        # Left by a run that was killed. Every attempt has a name of its own, so two processes cannot mix their bytes.
        for leftover in path.parent.glob(f".{path.name}-*"):
            leftover.unlink(missing_ok=True)
        scratch = path.with_name(f".{path.name}-{uuid4().hex}")
        try:
            with scratch.open("xb") as file:
                with pa.ipc.new_stream(file, _schema(self._fields)) as stream:
                    for block in self._blocks(shard, batches):
                        stream.write_batch(_record_batch(block, self._fields))
                _sync(file)
            try:
                scratch.replace(path)
            except FileNotFoundError as error:
                raise RuntimeError(f"another process writes shard {shard.index} of {self.folder} too") from error
            _sync_folder(path.parent)
        finally:
            scratch.unlink(missing_ok=True)

    def finish(self, card_facts: Mapping[str, Any], files: Mapping[str, str] | None = None) -> TargetTable:
        """Put the finished table in its place, which is the last thing done, and open it. For one process alone.

        Args:
            card_facts: What the card says of how the table was made; see `hf_abkd.teachers.cache.card.table_card`.
            files: The text of further files, by their names (which end in `.json` or `.md`).

        Raises:
            RuntimeError: If shards are missing.
            ValueError: If a shard is damaged, or a name is no plain file name or taken by the table.
        """
        files = dict(files or {})
        _check_names(files, self.folder)
        self._check_free()
        if missing := [shard.index for shard in self.shards if not shard.done]:
            raise RuntimeError(
                f"{len(missing)} of {self._shards} shards of {self.folder} are not written yet: {_some(missing)}; run "
                "the same command again"
            )
        paths = [self._path(shard.index) for shard in self.shards]
        # The ids alone are held in memory, 8 bytes for each sample.
        ids = np.empty(self.samples, np.int64)
        for shard, path in zip(self.shards, paths, strict=True):
            try:
                blocks = _map(path, self._fields, (shard.stop - shard.start) * self.views)
            except ValueError as error:
                raise ValueError(f"{error}. Delete this file and run the same command again") from error
            ids[shard.start : shard.stop] = np.concatenate([block["sample_id"][:: self.views] for block in blocks])
        for leftover in self._table.glob("data/.*"):
            leftover.unlink()
        # Of an image that the data set has twice the first position counts: np.unique returns the first.
        index = np.stack(np.unique(ids, return_index=True))
        with (self._table / INDEX_NAME).open("wb") as file:
            np.save(file, index, allow_pickle=False)
            _sync(file)
        sizes = [
            {"samples": shard.stop - shard.start, "bytes": path.stat().st_size}
            for shard, path in zip(self.shards, paths, strict=True)
        ]
        _write_json(self._table / MANIFEST_NAME, {**self._manifest, "shards": sizes, "files": sorted(files)})
        pattern = f"data/train-*-of-{self._shards:05d}.arrow"
        rows = [
            *((field.name, field.dtype.name, "()", field.row_bytes) for field in _row_fields()),
            *((column.name, column.kind, _shape_text(column), column.row_bytes) for column in self.columns),
        ]
        card = table_card(rows, self.samples, self.views, pattern, card_facts)
        for name, text in {CARD_NAME: card, **files}.items():
            _write_text(self._table / name, text)
        _sync_folder(self._table)
        self._table.replace(self.folder)
        _sync_folder(self.folder.parent)
        shutil.rmtree(self._work)
        return TargetTable.open(self.folder)

    def _check_free(self) -> None:
        if (self.folder / MANIFEST_NAME).is_file():
            raise FileExistsError(
                f"{self.folder} holds a table that is complete: use it (TargetTable.open), or delete the folder or "
                "choose another to write a new one"
            )
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise FileExistsError(f"{self.folder} exists and is no table: choose a folder that is empty or not there")

    def _begin(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Make the folder to write in, or check the one that is there; return its manifest."""
        path = self._work / f".{MANIFEST_NAME}"
        if not path.is_file():
            # Renaming a folder that has its manifest fails if another process was first, and is never half done.
            scratch = self._work.with_name(f".{self._work.name}-{uuid4().hex}")
            try:
                scratch.mkdir(parents=True)
                _write_json(scratch / path.name, manifest)
                scratch.rename(self._work)
            except OSError as error:
                if not self._work.exists():
                    raise
                if not path.is_file():
                    raise FileExistsError(
                        f"{self._work}, in which the table would be written, holds something else: move it away"
                    ) from error
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        begun = _read_manifest(path)
        if differences := [
            *identity_differences(begun["identity"], manifest["identity"]),
            *identity_differences(_described(begun), _described(manifest)),
        ]:
            raise ValueError(
                f"{self._work} was begun for another table and cannot be gone on with:\n  "
                + "\n  ".join(differences)
                + "\nDelete that folder, or choose another one for this table"
            )
        return begun

    def _path(self, shard: int) -> Path:
        return self._table / _shard_name(shard, self._shards)

    def _blocks(self, shard: Shard, batches: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, np.ndarray]]:
        """Cut the rows into record batches of one size, whatever the batches are, so that a shard is always the same.

        The arrays are used again for the next record batch.
        """
        total, done, filled = (shard.stop - shard.start) * self.views, 0, 0
        size = min(total, self.views * max(1, _BATCH_BYTES // self._sample_bytes))
        block = {field.name: np.empty((size, *field.shape), field.dtype) for field in self._fields}
        for batch in batches:
            arrays = self._arrays(batch)
            rows = len(arrays["sample_id"])
            if done + filled + rows > total:
                raise ValueError(f"shard {shard.index} has {total} rows, and more were given")
            taken = 0
            while taken < rows:
                part = min(rows - taken, size - filled)
                for name, array in arrays.items():
                    block[name][filled : filled + part] = array[taken : taken + part]
                taken, filled = taken + part, filled + part
                if filled == size or done + filled == total:
                    ready = {name: array[:filled] for name, array in block.items()}
                    self._check(ready, shard.start * self.views + done)
                    yield ready
                    done, filled = done + filled, 0
        if done < total:
            raise ValueError(f"shard {shard.index} has {total} rows, and {done + filled} were given")

    def _arrays(self, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Return the arrays of a batch as they are stored, by the names of the fields."""
        names = {*_RESERVED, *(column.name for column in self.columns)}
        if set(batch) != names:
            raise ValueError(
                f"a batch must have {sorted(names)}: missing {sorted(names - set(batch))}, "
                f"unknown {sorted(set(batch) - names)}"
            )
        arrays: dict[str, np.ndarray] = {name: batch[name] for name in _RESERVED}
        shapes: dict[str, tuple[int, ...]] = {field.name: field.shape for field in self._fields}
        for column in self.columns:
            if column.kind == "topk":
                parts = batch[column.name]
                if not isinstance(parts, Mapping) or set(parts) != {"values", "indices", "rest"}:
                    raise ValueError(f"{column.name!r} of kind 'topk' is a dict of values, indices and rest")
                arrays |= {f"{column.name}.{part}": array for part, array in parts.items()}
            else:
                arrays[column.name] = batch[column.name]
                if column.kind == "float16":
                    shapes[column.name] = column.shape
        rows = len(arrays["sample_id"])
        for field in self._fields:
            array, expected = arrays[field.name], (rows, *shapes[field.name])
            if not isinstance(array, np.ndarray) or array.dtype != field.dtype or array.shape != expected:
                given = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
                raise ValueError(f"{field.name!r} must be an array {field.dtype} {expected}, got {given}")
            arrays[field.name] = array.reshape(rows, *field.shape)
        return arrays

    def _check(self, block: Mapping[str, np.ndarray], first_row: int) -> None:
        """Check what arrays of the right kind can still have wrong; a block begins with the first view of a sample."""
        ids, views = (block[name].reshape(-1, self.views) for name in ("sample_id", "view"))
        in_order = (views == np.arange(self.views)).reshape(-1)
        _refuse(~in_order, first_row, f"the views of a sample are not in the order 0 to {self.views - 1}")
        _refuse((ids != ids[:, :1]).reshape(-1), first_row, "the views of a sample differ in sample_id")
        for field in self._fields:
            if field.dtype == np.float16:
                wrong = (block[field.name].view(np.uint16) & _INFINITY) == _INFINITY
                _refuse(wrong, first_row, f"{field.name!r} is not finite in float16, which ends at 65504")
        for column in self.columns:
            if column.kind == "bits" and (used := math.prod(column.shape) % 8):
                last = block[column.name][:, -1]
                _refuse(last >> used != 0, first_row, f"{column.name!r} has bits set after its {column.shape} bits")
            if column.kind == "topk":
                indices, rest = block[f"{column.name}.indices"], block[f"{column.name}.rest"]
                wrong = (indices < 0) | (indices >= column.shape[1])
                _refuse(wrong, first_row, f"'{column.name}.indices' is not from 0 to {column.shape[1] - 1}")
                _refuse(~(rest < math.inf), first_row, f"'{column.name}.rest' is not a number, or infinite")


class TargetTable:
    """A finished table, memory-mapped: opening it reads no rows, and reading rows reads no others.

    It can be used by several threads, after a fork, and by other processes (pickled, it is opened again there).

    Attributes:
        folder: Where it is.
        identity: What the targets depend on.
        columns: The teacher's targets, by name.
        samples: How many samples it has.
        views: How many views of each; row = position of the sample * views + view.
        nbytes: The size of its shards, in bytes.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).resolve()
        manifest = _read_manifest(_manifest_path(self.folder))
        self.identity: dict[str, Any] = manifest["identity"]
        self.columns = {column.name: column for column in map(Column.from_json, manifest["columns"])}
        self.samples: int = manifest["samples"]
        self.views: int = manifest["views"]
        shards: list[dict[str, int]] = manifest["shards"]
        if sum(shard["samples"] for shard in shards) != self.samples:
            raise ValueError(f"{self.folder / MANIFEST_NAME} is damaged: its shards do not have {self.samples} samples")
        self.nbytes = sum(shard["bytes"] for shard in shards)
        own = [CARD_NAME, MANIFEST_NAME, INDEX_NAME]
        _check_names(manifest["files"], self.folder)
        self._files = [*own, *manifest["files"], *(_shard_name(i, len(shards)) for i in range(len(shards)))]
        fields = _table_fields(tuple(self.columns.values()))
        self._views: dict[str, list[np.ndarray]] = {field.name: [] for field in fields}
        for number, shard in enumerate(shards):
            path = self.folder / _shard_name(number, len(shards))
            again = f"Get this file again, or delete {self.folder} and make the table again"
            if not path.is_file():
                raise FileNotFoundError(f"{path} is missing. {again}")
            if (size := path.stat().st_size) != shard["bytes"]:
                raise ValueError(f"{path} has {size:,} bytes and should have {shard['bytes']:,}. {again}")
            try:
                blocks = _map(path, fields, shard["samples"] * self.views)
            except ValueError as error:
                raise ValueError(f"{error}. {again}") from error
            for field in fields:
                self._views[field.name] += [block[field.name] for block in blocks]
        self._starts = np.cumsum([0, *(len(view) for view in self._views["sample_id"])])
        self._ids, self._positions = _map_index(self.folder / INDEX_NAME, self.samples)

    @classmethod
    def open(cls, folder: str | Path) -> TargetTable:
        """Open a finished table.

        Raises:
            FileNotFoundError: If there is none, it is not finished, or a shard is missing.
            ValueError: If a file of it is damaged or of a newer format; the message names it.
        """
        return cls(folder)

    @classmethod
    def from_hub(
        cls,
        repo_id: str,
        *,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
    ) -> TargetTable:
        """Download a table from the Hub, what is not in the cache yet, and open it.

        Only Arrow, JSON, Markdown and NumPy files are downloaded; none of them can hold code.

        Raises:
            FileNotFoundError: If the repository holds no table.
            ValueError: If a file of it is damaged or of a newer format.
            huggingface_hub.errors.RepositoryNotFoundError: If there is no such data set repository.
        """
        folder = snapshot_download(
            repo_id,
            repo_type="dataset",
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            allow_patterns=["*.arrow", "*.json", "*.md", "*.npy"],
            library_name="hf_abkd",
            library_version=__version__,
        )
        return cls(folder)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        commit_message: str = "Upload the targets of a teacher",
    ) -> CommitInfo:
        """Upload the files of the table, and no others, to a data set repository, which is made if it is not there.

        The shards of another table that lie in it are deleted, as they would be read with those of this one.
        """
        api = HfApi(token=token, library_name="hf_abkd", library_version=__version__)
        url = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        return api.upload_folder(
            repo_id=url.repo_id,
            repo_type="dataset",
            folder_path=self.folder,
            allow_patterns=self._files,
            delete_patterns="data/train-*.arrow",
            revision=revision,
            commit_message=commit_message,
        )

    def __reduce__(self) -> tuple[Callable[[str | Path], TargetTable], tuple[Path]]:
        """Pickle the path alone: the maps are made again where it is loaded."""
        return type(self), (self.folder,)

    def rows(self, sample_ids: np.ndarray, view: int | np.ndarray) -> np.ndarray:
        """Return the numbers of the rows of samples, (n,) int64.

        Args:
            sample_ids: The hashes of the images, (n,) int64.
            view: Which view, of all or of each.

        Raises:
            ValueError: If there is no such sample or no such view.
        """
        sample_ids, view = np.asarray(sample_ids, np.int64), np.asarray(view)
        if view.size and (view.min() < 0 or view.max() >= self.views):
            raise ValueError(f"view must be from 0 to {self.views - 1}, got {view.min()} to {view.max()}")
        found = np.searchsorted(self._ids, sample_ids)
        found[found == len(self._ids)] = 0
        missing = self._ids[found] != sample_ids
        if missing.any():
            raise ValueError(
                f"{missing.sum()} of {len(sample_ids)} samples are not in the table {self.folder} (sample_id "
                f"{_some(sample_ids[missing].tolist())}): the data set, or how its images are decoded, differs from "
                "the one whose targets were stored. Use that data set, or store the targets of this one"
            )
        rows: np.ndarray = self._positions[found] * self.views + view
        return rows

    def read(self, rows: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
        """Return some columns of some rows, in the order of the rows; the same row may be asked for again.

        Args:
            rows: Their numbers, (n,).
            names: Names of columns, `sample_id`, `view` or `pixels`.

        Returns:
            By name: bits as (n, ceil(bits / 8)) uint8, float16 as (n, *shape), logits as (n, K) float16, topk as a
            dict of `values` (n, k) float16, `indices` (n, k) int32 and `rest` (n,) float32; `sample_id` and `pixels`
            as (n,) int64 and `view` as (n,) int32. All are copies.

        Raises:
            ValueError: If there is no such column.
            IndexError: If there is no such row.
        """
        if unknown := [name for name in names if name not in self.columns and name not in _RESERVED]:
            raise ValueError(f"the table has no {unknown}; it has {[*_RESERVED, *self.columns]}")
        rows = np.asarray(rows)
        if rows.size and (rows.min() < 0 or rows.max() >= self._starts[-1]):
            raise IndexError(f"rows are from 0 to {self._starts[-1] - 1}, got {rows.min()} to {rows.max()}")
        blocks = np.searchsorted(self._starts, rows, side="right") - 1
        places = list(zip(blocks.tolist(), (rows - self._starts[blocks]).tolist(), strict=True))
        result: dict[str, Any] = {}
        for name in names:
            column = self.columns.get(name)
            if column is None or column.kind != "topk":
                array = self._gather(name, places)
                result[name] = array.reshape(len(rows), *column.shape) if column and column.kind == "float16" else array
            else:
                result[name] = {part: self._gather(f"{name}.{part}", places) for part in ("values", "indices", "rest")}
        return result

    def _gather(self, field: str, places: list[tuple[int, int]]) -> np.ndarray:
        views = self._views[field]
        gathered = np.empty((len(places), *views[0].shape[1:]), views[0].dtype)
        # Rows drawn at random lie in as many record batches as there are rows: grouping them would not pay.
        for number, (block, row) in enumerate(places):
            gathered[number] = views[block][row]
        return gathered


def identity_differences(table: Mapping[str, Any], run: Mapping[str, Any]) -> list[str]:
    """Return a line for each key, with dots between those of nested mappings, in which two identities differ.

    Args:
        table: The identity of a table.
        run: The one that it is compared with.
    """
    theirs, ours = (dict(_leaves(_as_json(identity))) for identity in (table, run))
    lines = []
    for key in sorted({*theirs, *ours}):
        values = [json.dumps(side[key], ensure_ascii=False) if key in side else "nothing" for side in (theirs, ours)]
        if values[0] != values[1]:
            lines.append(f"{key}: {_around(*values)} in the table, {_around(*reversed(values))} in this run")
    return lines


@dataclass(frozen=True)
class _Field:
    """A column of the Arrow files: rows of `shape`, at most one dimension, and `dtype`, of which uint8 is binary."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...] = ()

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)

    @property
    def feature(self) -> Any:
        if self.dtype == np.uint8:
            return Value("binary")
        return List(Value(self.dtype.name), length=self.shape[0]) if self.shape else Value(self.dtype.name)


def _row_fields() -> list[_Field]:
    return [_Field("sample_id", np.dtype("<i8")), _Field("view", np.dtype("<i4")), _Field("pixels", np.dtype("<i8"))]


def _column_fields(column: Column) -> list[_Field]:
    half = np.dtype("<f2")
    if column.kind == "bits":
        return [_Field(column.name, np.dtype("u1"), (-(-math.prod(column.shape) // 8),))]
    if column.kind == "topk":
        k = column.shape[:1]
        return [
            _Field(f"{column.name}.values", half, k),
            _Field(f"{column.name}.indices", np.dtype("<i4"), k),
            _Field(f"{column.name}.rest", np.dtype("<f4")),
        ]
    return [_Field(column.name, half, (math.prod(column.shape),))]


def _table_fields(columns: Sequence[Column]) -> list[_Field]:
    fields = [*_row_fields(), *(field for column in columns for field in _column_fields(column))]
    names = [field.name for field in fields]
    if not columns or len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(
            f"a table needs columns of different names, got {twice} twice" if twice else "no columns given"
        )
    return fields


def _schema(fields: Sequence[_Field]) -> pa.Schema:
    return Features({field.name: field.feature for field in fields}).arrow_schema


def _record_batch(block: Mapping[str, np.ndarray], fields: Sequence[_Field]) -> pa.RecordBatch:
    """Return the Arrow form of arrays, which shares their memory."""
    schema, arrays = _schema(fields), []
    for field in fields:
        values = block[field.name]
        if field.dtype == np.uint8:
            offsets = np.arange(len(values) + 1, dtype=np.int32) * field.shape[0]
            buffers = [None, pa.py_buffer(offsets), pa.py_buffer(values)]
            arrays.append(pa.Array.from_buffers(pa.binary(), len(values), buffers))
        elif field.shape:
            flat = pa.array(values.reshape(-1))
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=schema.field(field.name).type))
        else:
            arrays.append(pa.array(values))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _map(path: Path, fields: Sequence[_Field], rows: int) -> list[dict[str, np.ndarray]]:
    """Return the record batches of a shard as arrays (rows, *shape) over the file's memory map.

    Raises:
        ValueError: If it is not whole: no Arrow file, other columns, another number of rows.
    """
    blocks = []
    try:
        # The maps stay while there are arrays over them; the file, of which a process has few, is closed.
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
            if not stream.schema.equals(_schema(fields)):
                raise ValueError(f"its columns are {stream.schema.names}, not {[field.name for field in fields]}")
            for batch in stream:
                columns = zip(fields, batch.columns, strict=True)
                blocks.append({field.name: _mapped(field, column) for field, column in columns})
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if (found := sum(len(block["sample_id"]) for block in blocks)) != rows:
        raise ValueError(f"{path} is damaged: it has {found:,} rows and should have {rows:,}")
    return blocks


def _mapped(field: _Field, column: pa.Array) -> np.ndarray:
    buffers, rows = column.buffers(), len(column)
    if field.dtype == np.uint8:
        offsets = np.frombuffer(buffers[1], np.int32, rows + 1)
        if (offsets[0], offsets[-1]) != (0, rows * field.shape[0]):
            raise ValueError(f"the rows of {field.name!r} are not of {field.shape[0]} bytes")
    if column.null_count:
        raise ValueError(f"{field.name!r} lacks values")
    # frombuffer refuses a buffer that is too short.
    return np.frombuffer(buffers[-1], field.dtype, rows * math.prod(field.shape)).reshape(rows, *field.shape)


def _map_index(path: Path, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sample ids in ascending order, and the position of each, over the file's memory map."""
    try:
        index = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is damaged or missing: {error}. Get this file again") from error
    if index.dtype != np.int64 or index.ndim != 2 or len(index) != 2 or not 0 < index.shape[1] <= samples:
        raise ValueError(f"{path} is damaged: it is no index of {samples} samples. Get this file again")
    return index[0], index[1]


def _manifest_path(folder: Path) -> Path:
    path = folder / MANIFEST_NAME
    if not path.is_file():
        for unfinished in (folder, _incomplete(folder)):
            if (unfinished / f".{MANIFEST_NAME}").is_file():
                raise FileNotFoundError(
                    f"the table in {unfinished} is not finished: run the command that writes it again, and it goes on "
                    "from the last shard that was done"
                )
        raise FileNotFoundError(f"there is no table in {folder}: it has no {MANIFEST_NAME}")
    return path


def _read_manifest(path: Path) -> dict[str, Any]:
    """Return a manifest, of a finished table or of one that was begun, whose format this version knows."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}): get this file again, or make the table again") from error
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        newer = type(found) is int and found > FORMAT
        raise ValueError(
            f"{path} has format {found!r}, and hf_abkd {__version__} reads {FORMAT}: "
            + ("use a newer hf_abkd" if newer else "make the table again")
        )
    lacking = {"identity", "columns", "samples", "views"} - set(manifest)
    if lacking or not ({"shards", "files"} <= set(manifest) or "samples_per_shard" in manifest):
        raise ValueError(f"{path} is damaged: keys are missing. Get this file again, or make the table again")
    return dict(manifest)


def _described(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what two tables of the same identity can still differ in."""
    columns = [Column.from_json(column) for column in manifest["columns"]]
    return {
        "samples": manifest["samples"],
        "views": manifest["views"],
        "columns": {column.name: f"{column.kind} {column.shape}" for column in columns},
    }


def _incomplete(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.incomplete")


def _shard_name(shard: int, shards: int) -> str:
    return f"data/train-{shard:05d}-of-{shards:05d}.arrow"


def _check_names(files: Iterable[str], folder: Path) -> None:
    own = (CARD_NAME, MANIFEST_NAME, INDEX_NAME)
    if wrong := [name for name in files if name in own or not re.fullmatch(r"\w[\w.-]*\.(json|md)", name)]:
        raise ValueError(
            f"further files of {folder} must have plain names that end in .json or .md and are none of {list(own)}, "
            f"got {wrong}"
        )


def _shape_text(column: Column) -> str:
    if column.kind == "topk":
        return f"{column.shape[0]} of {column.shape[1]}"
    return f"({', '.join(map(str, column.shape))}{',' if len(column.shape) == 1 else ''})"


def _refuse(wrong: np.ndarray, first_row: int, problem: str) -> None:
    if wrong.any():
        row = int(wrong.reshape(len(wrong), -1).any(1).argmax())
        raise ValueError(f"row {first_row + row}: {problem}")


def _as_json(identity: Mapping[str, Any]) -> Any:
    """Return the identity as it is read back: lists for tuples, text for keys."""
    try:
        return json.loads(json.dumps(identity))
    except (TypeError, ValueError) as error:
        raise TypeError(f"the identity of a table must be of values that JSON has: {error}") from error


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from _leaves(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner


def _around(text: str, other: str) -> str:
    """Shorten a long text to the part where it begins to differ from the other."""
    alike = next((number for number, pair in enumerate(zip(text, other, strict=False)) if len(set(pair)) > 1), 0)
    start = max(0, alike - 20) if len(text) > 80 else 0
    piece = text[start : start + 80]
    return f"{'...' if start else ''}{piece}{'...' if start + 80 < len(text) else ''}"


def _some(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values[:5])) + (", ..." if len(values) > 5 else "")


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    _write_text(path, json.dumps(data, indent=2) + "\n")


def _write_text(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        _sync(file)


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
