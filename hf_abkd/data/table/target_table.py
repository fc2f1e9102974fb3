"""TargetTable: rows of equal width in memory-mapped files, found by the hash of the image.

A finished table is a data set folder that `datasets.load_dataset` and the Hub read as it is:

    README.md                          the card, which names the shards
    data/train-00000-of-00008.arrow    the rows: sample after sample, the views of a sample next to each other
    index.npy                          sample ids in order, and the positions of the samples
    hf_abkd_cache.json                 the manifest: identity, columns, sizes
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import CommitInfo, HfApi, snapshot_download

from hf_abkd.data.table.columns import ROW_NAMES, Column, table_fields
from hf_abkd.data.table.manifest import (
    CARD_NAME,
    INDEX_NAME,
    MANIFEST_NAME,
    FinishedManifest,
    ShardSize,
    check_names,
    manifest_path,
    read_manifest,
)
from hf_abkd.data.table.shards import map_blocks, shard_name
from hf_abkd.version import __version__
from hf_abkd.wording import listed


class TargetTable:
    """A finished table, memory-mapped: opening it reads no rows, and reading rows reads no others.

    It can be used by several threads, after a fork, and by other processes (pickled, it is opened again there).

    Attributes:
        folder: Where it is.
        manifest: What its manifest holds.
        identity: What the targets depend on.
        columns: The teacher's targets, by name.
        samples: How many samples it has.
        views: How many views of each; row = position of the sample * views + view.
        nbytes: The size of its shards, in bytes.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).resolve()
        manifest = read_manifest(manifest_path(self.folder), FinishedManifest)
        self.manifest = manifest
        self.identity: dict[str, Any] = manifest.identity
        self.columns: dict[str, Column] = {column.name: column for column in manifest.columns}
        self.samples: int = manifest.samples
        self.views: int = manifest.views
        shards = manifest.shards
        if sum(shard.samples for shard in shards) != self.samples:
            raise ValueError(f"{self.folder / MANIFEST_NAME} is damaged: its shards do not have {self.samples} samples")
        self.nbytes = sum(shard.bytes for shard in shards)
        check_names(manifest.files, self.folder)
        shard_names = [shard_name(index, len(shards)) for index in range(len(shards))]
        self._files = [CARD_NAME, MANIFEST_NAME, INDEX_NAME, *manifest.files, *shard_names]
        self._fields = {field.name: field for field in table_fields(tuple(self.columns.values()))}
        #: Of each field its arrays over the memory maps, block after block.
        self._blocks: dict[str, list[np.ndarray]] = {name: [] for name in self._fields}
        for name, shard in zip(shard_names, shards, strict=True):
            for block in self._map_shard(self.folder / name, shard):
                for field, array in block.items():
                    self._blocks[field].append(array)
        self._starts = np.cumsum([0, *(len(ids) for ids in self._blocks["sample_id"])])
        self._ids, self._positions = _map_index(self.folder / INDEX_NAME, self.samples)

    def _map_shard(self, path: Path, shard: ShardSize) -> list[dict[str, np.ndarray]]:
        """Return the blocks of a shard of which the manifest says this."""
        remedy = f"Get this file again, or delete {self.folder} and make the table again"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing. {remedy}")
        if (size := path.stat().st_size) != shard.bytes:
            raise ValueError(f"{path} has {size:,} bytes and should have {shard.bytes:,}. {remedy}")
        try:
            return map_blocks(path, tuple(self._fields.values()), shard.samples * self.views)
        except ValueError as error:
            raise ValueError(f"{error}. {remedy}") from error

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

    @property
    def files(self) -> list[str]:
        """The files that it consists of, relative to its folder."""
        return list(self._files)

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
        places = np.searchsorted(self._ids, sample_ids)
        places[places == len(self._ids)] = 0
        missing = self._ids[places] != sample_ids
        if missing.any():
            raise ValueError(
                f"{missing.sum()} of {len(sample_ids)} samples are not in the table {self.folder} (sample_id "
                f"{listed(sample_ids[missing].tolist())}): the data set, or how its images are decoded, differs from "
                "the one whose targets were stored. Use that data set, or store the targets of this one"
            )
        rows: np.ndarray = self._positions[places] * self.views + view
        return rows

    def read(self, rows: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
        """Return some columns of some rows, in the order of the rows; the same row may be asked for again.

        Args:
            rows: Their numbers, (n,).
            names: Names of columns, `sample_id`, `view` or `pixels`.

        Returns:
            By name: bits as (n, ceil(bits / 8)) uint8, float16, uint8 and int64 as (n, *shape), logits as (n, K)
            float16, topk as a dict of `values` (n, k) float16, `indices` (n, k) int32 and `rest` (n,) float32;
            `sample_id` and `pixels` as (n,) int64 and `view` as (n,) int32. All are copies.

        Raises:
            ValueError: If there is no such column.
            IndexError: If there is no such row.
        """
        if unknown := [name for name in names if name not in self.columns and name not in ROW_NAMES]:
            raise ValueError(f"the table has no {unknown}; it has {[*ROW_NAMES, *self.columns]}")
        rows = np.asarray(rows)
        if rows.size and (rows.min() < 0 or rows.max() >= self._starts[-1]):
            raise IndexError(f"rows are from 0 to {self._starts[-1] - 1}, got {rows.min()} to {rows.max()}")
        blocks = np.searchsorted(self._starts, rows, side="right") - 1
        places = list(zip(blocks.tolist(), (rows - self._starts[blocks]).tolist(), strict=True))
        result: dict[str, Any] = {}
        for name in names:
            if name in self.columns:
                column = self.columns[name]
                arrays = {field.name: self._gather(field.name, places) for field in column.fields}
                result[name] = column.unite(arrays)
            else:
                result[name] = self._gather(name, places)
        return result

    def whole(self, name: str) -> np.ndarray:
        """Return a column of one array for all rows, (rows, *shape)."""
        return self._fields[name].as_given(np.concatenate(self._blocks[name]))

    def _gather(self, field: str, places: list[tuple[int, int]]) -> np.ndarray:
        blocks = self._blocks[field]
        gathered = np.empty((len(places), *blocks[0].shape[1:]), blocks[0].dtype)
        # Rows drawn at random lie in as many record batches as there are rows: grouping them would not pay.
        for number, (block, row) in enumerate(places):
            gathered[number] = blocks[block][row]
        return self._fields[field].as_given(gathered)


def _map_index(path: Path, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sample ids in ascending order, and the position of each, over the file's memory map."""
    try:
        index = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is damaged or missing: {error}. Get this file again") from error
    if index.dtype != np.int64 or index.ndim != 2 or len(index) != 2 or not 0 < index.shape[1] <= samples:
        raise ValueError(f"{path} is damaged: it is no index of {samples} samples. Get this file again")
    return index[0], index[1]
