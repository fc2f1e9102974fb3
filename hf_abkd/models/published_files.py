"""Published files: which files of a folder a student is loaded from, and which describe it."""

from __future__ import annotations

import json
from pathlib import Path

from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME

from hf_abkd.models.weight_files import INDEX_NAME, weight_files

_CARD = "README.md"


def student_files(folder: Path) -> list[Path]:
    """Return the files that belong to a student: weights, configuration, image processor, own code, card.

    A list of what is published, and not of what stays: a folder of a run also holds checkpoints, logs and whatever its
    owner keeps there.

    Args:
        folder: The folder.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it holds no student, or one that is not complete.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    weights = weight_files(folder)
    if not weights or not (folder / CONFIG_NAME).is_file():
        lacking = CONFIG_NAME if weights else "weights in safetensors"
        raise ValueError(f"{folder} holds no student: it has no {lacking}. Name the folder that a run saved it in")
    names = [CONFIG_NAME, IMAGE_PROCESSOR_NAME, INDEX_NAME, _CARD]
    described = [folder / name for name in names if (folder / name).is_file()]
    return [*weights, *described, *_own_code(folder)]


def _own_code(folder: Path) -> list[Path]:
    """Return the modules that the configuration names, and those beside them that were saved with these."""
    config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    if not config.get("auto_map"):
        return []
    return sorted(folder.glob("*.py"))
