"""What lies in a checkpoint: the student alone, and beside it what only a resumed run needs.

A checkpoint's `model.safetensors` is the student and loads with `AutoModelFor...`. Connectors and objective state are
`distillation_modules.safetensors`; the position in the stages, their description and the teacher's fingerprint are
`distillation_state.json`. The teacher is never in it. Of a student with adapters `model.safetensors` has them merged,
and `unmerged_student.safetensors` is what a resumed run goes on from.
"""

from __future__ import annotations

import json
import logging
import re
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_abkd.adapters import has_adapters, merged

MODULES_NAME = "distillation_modules.safetensors"
UNMERGED_NAME = "unmerged_student.safetensors"
STATE_NAME = "distillation_state.json"
STATE_FORMAT = 2

logger = logging.getLogger(__name__)


def save_student(student: PreTrainedModel, processor: Any, folder: Path) -> list[str]:
    """Write the student, adapters merged, and its processor if there is one; return the names of the files.

    Every file is put in place whole, so a run that is killed here leaves the files of before or the new ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # The leading underscore keeps a leftover of a killed run out of uploads.
    with tempfile.TemporaryDirectory(prefix="_saving-", dir=folder) as scratch:
        merged(student).save_pretrained(scratch)
        if processor is not None:
            processor.save_pretrained(scratch)
        names = sorted(entry.name for entry in Path(scratch).iterdir() if entry.is_file())
        for name in names:
            (Path(scratch) / name).replace(folder / name)
    return names


def save_unmerged(student: PreTrainedModel, folder: Path) -> bool:
    """Write every tensor of a student with adapters under its own name; return whether the student has any.

    Frozen weights too: some adapters change them when they are made, and what a later stage trains is frozen now.
    """
    adapted = has_adapters(student)
    if adapted:
        save_file(_copied(student.state_dict()), folder / UNMERGED_NAME)
    return adapted


def load_student(student: PreTrainedModel, folder: Path) -> None:
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
    modes = [(module, module.training) for module in student.modules()]
    student.train()
    for module, mode in modes:
        module.training = mode


def _check_merged(student: PreTrainedModel, saved: Mapping[str, torch.Tensor], folder: Path) -> None:
    now = merged(student).state_dict()
    other = [name for name in saved if not torch.allclose(now[name], saved[name], rtol=1e-4, atol=1e-6, equal_nan=True)]
    if other:
        raise ValueError(
            f"the adapters in {folder} give other weights here than where they were saved, in {other[:5]}: make them "
            "with the settings of that run (lora_alpha, use_rslora, use_dora)"
        )


def save_modules(modules: Mapping[str, nn.Module], folder: Path) -> None:
    """Write the state of connectors and objectives."""
    named = {f"{prefix}.{name}": t for prefix, module in modules.items() for name, t in module.state_dict().items()}
    save_file(_copied(named), folder / MODULES_NAME)


def load_modules(modules: Mapping[str, nn.Module], folder: Path) -> None:
    """Put the saved state of connectors and objectives back, every tensor of it.

    Raises:
        ValueError: If tensors are missing, left over, or of another shape.
    """
    tensors = load_file(folder / MODULES_NAME)
    expected = {f"{prefix}.{name}" for prefix, module in modules.items() for name in module.state_dict()}
    if expected != set(tensors):
        raise ValueError(
            f"{folder / MODULES_NAME} does not hold the connectors of these stages: missing "
            f"{sorted(expected - set(tensors))[:5]}, left over {sorted(set(tensors) - expected)[:5]}"
        )
    for prefix, module in modules.items():
        own = {name: tensors[f"{prefix}.{name}"] for name in module.state_dict()}
        try:
            module.load_state_dict(own, strict=True)
        except RuntimeError as error:
            raise ValueError(f"{folder / MODULES_NAME} does not fit these stages: {error}") from error


def save_state(state: Mapping[str, Any], folder: Path) -> None:
    """Write the position in the stages and what the run consists of."""
    (folder / STATE_NAME).write_text(json.dumps({"format": STATE_FORMAT, **state}, indent=2) + "\n")


def load_state(folder: Path) -> dict[str, Any]:
    """Read the position in the stages and what the run consisted of.

    Raises:
        ValueError: If the folder is no complete checkpoint of a distillation run.
    """
    if problem := incomplete(folder):
        raise ValueError(f"{folder} cannot be resumed from: {problem}")
    state: dict[str, Any] = json.loads((folder / STATE_NAME).read_text())
    if state.get("format") != STATE_FORMAT:
        raise ValueError(f"{folder / STATE_NAME} has format {state.get('format')}; this version reads {STATE_FORMAT}")
    return state


def incomplete(folder: Path) -> str | None:
    """Return what a checkpoint lacks, or None if a run can be resumed from it.

    `trainer_state.json` is written last, so a checkpoint that was cut off by a kill has none, or half of one.
    """
    for name in (STATE_NAME, MODULES_NAME, "optimizer.pt", "scheduler.pt", TRAINER_STATE_NAME):
        if not (folder / name).is_file():
            return f"it has no {name}"
    if not any(folder.glob("model*.safetensors")):
        return "it has no model.safetensors"
    try:
        state = json.loads((folder / STATE_NAME).read_text())
        json.loads((folder / TRAINER_STATE_NAME).read_text())
        for path in folder.glob("*.safetensors"):
            # Opening compares the length of the file with what its header says.
            with safe_open(path, framework="pt"):
                pass
    except (json.JSONDecodeError, SafetensorError) as error:
        return f"a file in it was cut off ({error})"
    # These are zip archives, whose table of contents is at the end.
    cut_off = [path.name for path in (*folder.glob("*.pt"), *folder.glob("*.pth")) if not zipfile.is_zipfile(path)]
    if cut_off:
        return f"{cut_off[0]} was cut off"
    if state.get("unmerged") and not (folder / UNMERGED_NAME).is_file():
        return f"it has no {UNMERGED_NAME}"
    ranks = state.get("world_size", 1)
    rng = ["rng_state.pth"] if ranks == 1 else [f"rng_state_{rank}.pth" for rank in range(ranks)]
    missing = [name for name in rng if not (folder / name).is_file()]
    return f"it has no {missing[0]}" if missing else None


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoint folders in a run's folder, oldest first."""
    if not folder.is_dir():
        return []
    found = [(match, path) for path in folder.iterdir() if (match := _checkpoint_step(path)) is not None]
    return [path for _, path in sorted(found)]


def last_complete_checkpoint(folder: Path) -> Path:
    """Return the newest checkpoint that a run can be resumed from; cut-off ones are passed over, and named.

    Raises:
        ValueError: If there is none.
    """
    reasons = []
    for path in reversed(checkpoints(folder)):
        if (problem := incomplete(path)) is None:
            return path
        reasons.append(f"{path.name}: {problem}")
        logger.warning("%s is not used to resume: %s", path, problem)
    raise ValueError(
        f"there is no checkpoint to resume from in {folder}"
        + (f" ({'; '.join(reasons)})" if reasons else "; start without resume_from_checkpoint")
    )


def holds_another_run(folder: Path) -> list[str]:
    """Return the names in a folder that a new run would mix with or overwrite."""
    weights = sorted(path.name for path in folder.glob("model*.safetensors")) if folder.is_dir() else []
    return [path.name for path in checkpoints(folder)] + weights


def synchronize_buffers(model: nn.Module) -> None:
    """Give every process the buffers of the first.

    Each process updates BatchNorm statistics from its own share of the batch. Without this the processes would
    evaluate different models, none of them the one that is saved.
    """
    for buffer in model.buffers():
        torch.distributed.broadcast(buffer, src=0)


def _copied(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return copies on the CPU that share no memory, as safetensors wants them."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def _checkpoint_step(path: Path) -> int | None:
    match = re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", path.name)
    return int(match.group(1)) if match and path.is_dir() else None
