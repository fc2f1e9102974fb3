"""Published files: which files of a folder a student is loaded from, and which describe it."""

from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub.constants import REPOCARD_NAME
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME

from hf_abkd.models.weight_files import INDEX_NAME, weight_files

#: The picture of a model card, which links to it.
CARD_PICTURE_NAME = "model_card.png"


def student_files(folder: Path) -> list[Path]:
    """Return the files that belong to a student: weights, configuration, image processor, own code, card with picture.

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
    names = [CONFIG_NAME, IMAGE_PROCESSOR_NAME, INDEX_NAME, REPOCARD_NAME, CARD_PICTURE_NAME]
    described = [folder / name for name in names if (folder / name).is_file()]
    return [*weights, *described, *_own_code(folder)]


def _own_code(folder: Path) -> list[Path]:
    """Return the modules that model or image processor are loaded by, and those that these import from beside them."""
    found: set[Path] = set()
    for name in (CONFIG_NAME, IMAGE_PROCESSOR_NAME):
        if not (folder / name).is_file():
            continue
        named = json.loads((folder / name).read_text(encoding="utf-8")).get("auto_map") or {}
        # One class, or several of which some may be missing; code of another repository stays there.
        classes = [one for value in named.values() for one in (value if isinstance(value, list) else [value])]
        modules = {one.partition(".")[0] for one in classes if one and "--" not in one}
        for module in (folder / f"{one}.py" for one in modules):
            found |= {module, *map(Path, get_relative_import_files(module))}
    return sorted(found)
