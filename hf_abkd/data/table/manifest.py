"""The manifest of a table: a JSON file that tells what its targets depend on, its columns and its sizes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from hf_abkd.data.table.columns import Column
from hf_abkd.schema import NotNegative, Positive, checked, read_json
from hf_abkd.version import __version__

MANIFEST_NAME = "hf_abkd_cache.json"
#: The manifest of a table that is being written.
BEGUN_NAME = f".{MANIFEST_NAME}"
INDEX_NAME = "index.npy"
CARD_NAME = "README.md"
FORMAT = 1
_REMEDY = "Get this file again, or make the table again"


@dataclass(frozen=True)
class Manifest:
    """What the manifests of all tables hold.

    Args:
        format: Which version of the format it has.
        identity: What the targets depend on, in values that JSON has.
        columns: The targets.
        samples: How many samples there are.
        views: How many views of each.
    """

    format: int
    identity: dict[str, Any]
    columns: tuple[Column, ...]
    samples: Positive
    views: Positive


@dataclass(frozen=True)
class BegunManifest(Manifest):
    """The manifest of a table that is being written.

    Args:
        samples_per_shard: How many samples a shard has, but for the last one.
    """

    samples_per_shard: Positive


@dataclass(frozen=True)
class ShardSize:
    """What the manifest of a finished table tells of a shard."""

    samples: Positive
    bytes: NotNegative


@dataclass(frozen=True)
class FinishedManifest(Manifest):
    """The manifest of a finished table.

    Args:
        shards: The sizes of its shards, in their order.
        files: The names of further files.
    """

    shards: tuple[ShardSize, ...]
    files: tuple[str, ...]


M = TypeVar("M", bound=Manifest)


def incomplete(folder: Path) -> Path:
    """Return the folder in which a table is written, beside the one where it will be."""
    return folder.with_name(f"{folder.name}.incomplete")


def manifest_path(folder: Path) -> Path:
    """Return the manifest of a finished table.

    Raises:
        FileNotFoundError: If there is none, or the table is not finished.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        for unfinished in (folder, incomplete(folder)):
            if (unfinished / BEGUN_NAME).is_file():
                raise FileNotFoundError(
                    f"the table in {unfinished} is not finished: run the command that writes it again, and it goes on "
                    "from the last shard that was done"
                )
        raise FileNotFoundError(f"there is no table in {folder}: it has no {MANIFEST_NAME}")
    return path


def read_manifest(path: Path, kind: type[M]) -> M:
    """Return a manifest of some kind, whose format this version knows.

    Raises:
        ValueError: If it is damaged, or of another format.
    """
    manifest = read_json(path, remedy=_REMEDY)
    written = manifest.get("format") if isinstance(manifest, dict) else None
    if written != FORMAT:
        newer = type(written) is int and written > FORMAT
        raise ValueError(
            f"{path} has format {written!r}, and hf_abkd {__version__} reads {FORMAT}: "
            + ("use a newer hf_abkd" if newer else "make the table again")
        )
    return checked(manifest, kind, origin=path, remedy=_REMEDY)


def manifest_json(manifest: Manifest) -> dict[str, Any]:
    """Return a manifest as its file holds it."""
    return asdict(manifest)


def check_names(files: Iterable[str], folder: Path) -> None:
    """Refuse names of further files that would overwrite a file of the table or lead out of its folder.

    Raises:
        ValueError: If there are such names.
    """
    taken = [CARD_NAME, MANIFEST_NAME, INDEX_NAME]
    if wrong := [name for name in files if name in taken or not re.fullmatch(r"\w[\w.-]*\.(json|md)", name)]:
        raise ValueError(
            f"further files of {folder} must have plain names that end in .json or .md and are none of {taken}, "
            f"got {wrong}"
        )


def manifest_differences(table: Manifest, run: Manifest) -> list[str]:
    """Return a line for each thing in which the manifest of a table and that of a run differ."""
    return [
        *identity_differences(table.identity, run.identity),
        *identity_differences(_described(table), _described(run)),
    ]


def identity_differences(table: Mapping[str, Any], run: Mapping[str, Any]) -> list[str]:
    """Return a line for each key, with dots between those of nested mappings, in which two identities differ.

    Args:
        table: The identity of a table.
        run: The one that it is compared with.
    """
    theirs, ours = (dict(_leaves(as_json(identity))) for identity in (table, run))
    lines = []
    for key in sorted({*theirs, *ours}):
        values = [json.dumps(side[key], ensure_ascii=False) if key in side else "nothing" for side in (theirs, ours)]
        if values[0] != values[1]:
            lines.append(f"{key}: {_around(*values)} in the table, {_around(*reversed(values))} in this run")
    return lines


def as_json(identity: Mapping[str, Any]) -> Any:
    """Return an identity as it is read back: lists for tuples, text for keys.

    Raises:
        TypeError: If JSON cannot hold it.
    """
    try:
        return json.loads(json.dumps(identity))
    except (TypeError, ValueError) as error:
        raise TypeError(f"the identity of a table must be of values that JSON has: {error}") from error


def _described(manifest: Manifest) -> dict[str, Any]:
    """Return what two tables of the same identity can still differ in."""
    return {
        "samples": manifest.samples,
        "views": manifest.views,
        "columns": {column.name: f"{column.kind} {column.shape}" for column in manifest.columns},
    }


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
