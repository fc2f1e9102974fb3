"""Files of weights in safetensors: whether they are whole, and which they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from hf_abkd.schema import checked, read_json

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
#: The files that weights are read from.
WEIGHTS = (WEIGHTS_NAME, INDEX_NAME)
_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class _Index:
    """The index of weights in several files: the file of each tensor."""

    weight_map: dict[str, str]


def weight_files(folder: Path) -> list[Path]:
    """Return the files of the weights in a folder; none if it has no weights in safetensors.

    Raises:
        ValueError: If the index of several files is damaged, or one of them is missing.
    """
    index = folder / INDEX_NAME
    if (folder / WEIGHTS_NAME).is_file():
        return [folder / WEIGHTS_NAME]
    if not index.is_file():
        return []
    remedy = "Get this file again"
    names = sorted(
        set(checked(read_json(index, remedy=remedy), _Index, origin=index, remedy=remedy).weight_map.values())
    )
    for name in names:
        if Path(name).name != name:
            raise ValueError(f"{index} is damaged: it names {name!r}, which is no file beside it. {remedy}")
        if not (folder / name).is_file():
            raise ValueError(f"{folder} is not complete: it has no {name}, which its {INDEX_NAME} names")
    return [folder / name for name in names]


def check_whole(path: Path) -> None:
    """Check that a file is safetensors and as long as its head says.

    Raises:
        ValueError: If it was cut off, or is something else.
    """
    try:
        # Opening compares the length of the file with what its header says.
        with safe_open(path, framework="pt"):
            return
    except (SafetensorError, OSError) as error:
        with path.open("rb") as file:
            pointer = file.read(len(_POINTER)) == _POINTER
        if pointer:
            raise ValueError(f"{path} is a pointer of Git LFS in place of the weights: run `git lfs pull`") from error
        raise ValueError(
            f"{path} was cut off or is no safetensors ({path.stat().st_size:,} bytes, {error}). Get this file again"
        ) from error
