"""A student on disk: written so that Auto classes load it, and read back whole, adapters included."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME

from hf_abkd.files import as_others, whole_file, write_json
from hf_abkd.models.adapters import has_adapters, merged
from hf_abkd.models.kept_state import modes_kept
from hf_abkd.models.progress_bars import progress_bars_hidden

UNMERGED_NAME = "unmerged_student.safetensors"


def save_student(student: PreTrainedModel, processor: Any, folder: Path) -> list[str]:
    """Write the student, adapters merged, and its processor if there is one; return the names of the files.

    Every file is put in place whole, so a run that is killed here leaves the files of before or the new ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # The leading underscore keeps a leftover of a killed run out of uploads.
    with tempfile.TemporaryDirectory(prefix="_saving-", dir=folder) as scratch:
        with progress_bars_hidden():
            merged(student).save_pretrained(scratch)
        if processor is not None:
            save_processor(processor, Path(scratch))
        names = sorted(entry.name for entry in Path(scratch).iterdir() if entry.is_file())
        for name in names:
            as_others(Path(scratch) / name)
            (Path(scratch) / name).replace(folder / name)
    return names


def save_processor(processor: Any, folder: Path) -> None:
    """Write an image processor into the folder of a student that is there already, such that it is found there.

    A processor of timm writes nothing: its settings are part of a `config.json`. Where one holds such settings,
    transformers reads the processor from them, whatever else lies there, unless it also names the processor's kind.

    Args:
        processor: The processor.
        folder: The folder, with the student's `config.json`.
    """
    processor.save_pretrained(folder)
    path = folder / CONFIG_NAME
    config = json.loads(path.read_text(encoding="utf-8"))
    if is_of_timm(processor):
        config["pretrained_cfg"] = {**(config.get("pretrained_cfg") or {}), **processor.data_config}
        # On the Hub this file is looked for first, and one of an earlier student may be there.
        write_json(folder / IMAGE_PROCESSOR_NAME, {"image_processor_type": type(processor).__name__})
    elif "pretrained_cfg" not in config:
        return
    config["image_processor_type"] = processor.to_dict()["image_processor_type"]
    write_json(path, config)


def is_of_timm(processor: object) -> bool:
    """Whether a processor is timm's; importing its class needs timm."""
    return type(processor).__name__ == "TimmWrapperImageProcessor"


def save_unmerged(student: PreTrainedModel, folder: Path) -> bool:
    """Write every tensor of a student with adapters under its own name; return whether the student has any.

    Frozen weights too: some adapters change them when they are made, and what a later stage trains is frozen now.
    """
    adapted = has_adapters(student)
    if adapted:
        save_tensors(student.state_dict(), folder / UNMERGED_NAME)
    return adapted


def restore_student(student: PreTrainedModel, folder: Path) -> None:
    """Put the weights saved in a folder into the student, every one of them.

    They are read through `from_pretrained`: some families are saved under other names than they have in memory, and
    reading the file directly would leave those tensors as they are. Those of a student with adapters are in a file of
    their own, and the others tell whether its adapters have the settings that they were trained with.

    Raises:
        ValueError: If the folder lacks a tensor of the student or holds one that the student does not have.
    """
    adapted = has_adapters(student)
    if adapted != (folder / UNMERGED_NAME).is_file():
        raise ValueError(
            f"the student in {folder} was saved {'without' if adapted else 'with'} adapters, and this one has "
            f"{'some' if adapted else 'none'}: pass the student as that run did"
        )
    with progress_bars_hidden():
        loaded, info = type(student).from_pretrained(
            folder, output_loading_info=True, use_safetensors=True, dtype=student.dtype, local_files_only=True
        )
    wrong = {key: sorted(map(str, info[key])) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    if any(wrong.values()):
        raise ValueError(
            f"the weights in {folder} are not those of this {type(student).__name__}: "
            + "; ".join(f"{key.replace('_', ' ')} {names[:5]}" for key, names in wrong.items() if names)
        )
    saved = loaded.state_dict()
    try:
        student.load_state_dict(load_file(folder / UNMERGED_NAME) if adapted else saved, strict=True)
    except RuntimeError as error:
        raise ValueError(f"the weights in {folder} do not fit this {type(student).__name__}: {error}") from error
    if adapted:
        _check_merged(student, saved, folder)
    # LeViT keeps in eval mode what it once computed from its weights; only a change to training mode drops it.
    with modes_kept(student):
        student.train()


def _check_merged(student: PreTrainedModel, saved: Mapping[str, torch.Tensor], folder: Path) -> None:
    now = merged(student).state_dict()
    other = [name for name in saved if not torch.allclose(now[name], saved[name], rtol=1e-4, atol=1e-6, equal_nan=True)]
    if other:
        raise ValueError(
            f"the adapters in {folder} give other weights here than where they were saved, in {other[:5]}: make them "
            "with the settings of that run (lora_alpha, use_rslora, use_dora)"
        )


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write tensors to a safetensors file, whole or not at all; those that share memory are written each."""
    with whole_file(path) as scratch:
        save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, scratch)
