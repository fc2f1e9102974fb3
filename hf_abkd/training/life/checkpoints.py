"""What lies in a checkpoint: the student alone, and beside it what only a resumed run needs.

A checkpoint's `model.safetensors` is the student and loads with `AutoModelFor...`. Connectors and objective state are
`distillation_modules.safetensors`; the position in the stages, their description and the teacher's fingerprint are
`distillation_state.json`. The teacher is never in it. Of a student with adapters `model.safetensors` has them merged,
and `unmerged_student.safetensors` is what a resumed run goes on from.
"""

from __future__ import annotations

import logging
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import CONFIG_NAME

from hf_abkd.files import write_json
from hf_abkd.models.saving import UNMERGED_NAME, save_tensors, save_unmerged
from hf_abkd.training.life.saved_state import STATE_FORMAT, STATE_NAME, check_format, read_saved

MODULES_NAME = "distillation_modules.safetensors"

logger = logging.getLogger(__name__)


def save_modules(modules: Mapping[str, nn.Module], folder: Path) -> None:
    """Write the state of connectors and objectives."""
    named = {f"{prefix}.{name}": t for prefix, module in modules.items() for name, t in module.state_dict().items()}
    save_tensors(named, folder / MODULES_NAME)


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
        expected_state = {name: tensors[f"{prefix}.{name}"] for name in module.state_dict()}
        try:
            module.load_state_dict(expected_state, strict=True)
        except RuntimeError as error:
            raise ValueError(f"{folder / MODULES_NAME} does not fit these stages: {error}") from error


def save_state(state: Mapping[str, Any], folder: Path) -> None:
    """Write the position in the stages and what the run consists of."""
    write_json(folder / STATE_NAME, {"format": STATE_FORMAT, **state})


def load_state(folder: Path) -> dict[str, Any]:
    """Read the position in the stages and what the run consisted of.

    Raises:
        ValueError: If the folder is no complete checkpoint of a distillation run.
    """
    if problem := incomplete(folder):
        raise ValueError(f"{folder} cannot be resumed from: {problem}")
    state = read_saved(folder / STATE_NAME)
    check_format(state, folder / STATE_NAME)
    return state


def incomplete(folder: Path) -> str | None:
    """Return what a checkpoint lacks, or None if a run can be resumed from it.

    `trainer_state.json` is written last, so a checkpoint that was cut off by a kill has none, or half of one.
    """
    if not folder.is_dir():
        return "there is no such folder"
    if inside := checkpoints(folder):
        return f"it is the folder of a run; its newest checkpoint is {inside[-1]}"
    for name in (STATE_NAME, MODULES_NAME, CONFIG_NAME, "optimizer.pt", "scheduler.pt", TRAINER_STATE_NAME):
        if not (folder / name).is_file():
            return f"it has no {name}"
    weights = {path.name for path in folder.glob("model*.safetensors")}
    if not weights:
        return "it has no model.safetensors"
    if damaged := next(filter(None, map(_damage, sorted(folder.iterdir()))), None):
        return damaged
    for index in folder.glob("*.safetensors.index.json"):
        if missing := sorted(set(read_saved(index)["weight_map"].values()) - weights):
            return f"it has no {missing[0]}"
    step = read_saved(folder / TRAINER_STATE_NAME)["global_step"]
    if (named := _checkpoint_step(folder)) is not None and named != step:
        return f"its {TRAINER_STATE_NAME} is that of step {step}"
    state = read_saved(folder / STATE_NAME)
    if state.get("unmerged") and not (folder / UNMERGED_NAME).is_file():
        return f"it has no {UNMERGED_NAME}"
    ranks = state.get("world_size", 1)
    rng = ["rng_state.pth"] if ranks == 1 else [f"rng_state_{rank}.pth" for rank in range(ranks)]
    missing = [name for name in rng if not (folder / name).is_file()]
    return f"it has no {missing[0]}" if missing else None


def _damage(path: Path) -> str | None:
    """Return how a file of a checkpoint is damaged, with its name and size; None if it seems whole."""
    if path.suffix == ".json":
        try:
            read_saved(path)
        except ValueError as error:
            return str(error)
    try:
        if path.suffix == ".safetensors":
            # Opening compares the length of the file with what its header says.
            with safe_open(path, framework="pt"):
                pass
        elif path.suffix in (".pt", ".pth"):
            # A zip archive, whose table of contents is at the end and has a checksum of each part.
            with zipfile.ZipFile(path) as archive:
                if (broken := archive.testzip()) is not None:
                    raise ValueError(f"the checksum of {broken} is another one")
    except (ValueError, OSError, SafetensorError, zipfile.BadZipFile) as error:
        return f"{path.name} was cut off or changed: it has {path.stat().st_size} bytes ({error})"
    return None


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoint folders in a run's folder, oldest first."""
    if not folder.is_dir():
        return []
    found = [(match, path) for path in folder.iterdir() if (match := _checkpoint_step(path)) is not None]
    return [path for _, path in sorted(found)]


def check_same_teacher(
    there: Mapping[str, Any], here: Mapping[str, Any], checkpoint: Path, *, goes_on: bool = True
) -> None:
    """Check that a checkpoint was made with the teacher of this run.

    Args:
        there: The state of the checkpoint.
        here: That of this run.
        checkpoint: The folder of the checkpoint, for errors.
        goes_on: Whether the teacher is asked again: a run that is over needs no weights that others gave it meanwhile.

    Raises:
        ValueError: If its weights, or those that it takes on along a route, are others.
    """
    theirs, ours = ((state["teacher"] or {}).get("fingerprint") for state in (there, here))
    if goes_on and (changed := there.get("changed_teacher")) is not None:
        if ours != changed:
            raise ValueError(
                f"the weights of the teacher were changed in the run of {checkpoint}, which does not hold them: give "
                "the trainer the teacher with the weights that it had at that step. A callback can save them in "
                "`on_save` (docs/own-models.md shows one), or start a new run in another output_dir."
            )
        theirs = ours
    if theirs != ours:
        raise ValueError(
            f"{checkpoint} was made with another teacher: {there['teacher']} there, {here['teacher']} here. "
            "Pass the teacher of that run, or start a new run in another output_dir."
        )
    theirs, ours = ((state.get("routes") or {}).get("anchors") for state in (there, here))
    if theirs != ours:
        raise ValueError(
            f"{checkpoint} was made with other weights for the teacher to take on. Give the stages the anchors of "
            "that run, or start a new run in another output_dir."
        )


def begin_checkpoint(
    folder: Path, student: PreTrainedModel, modules: Mapping[str, nn.Module], state: Mapping[str, Any]
) -> None:
    """Write what a resumed run needs beside what the Trainer writes, before the Trainer writes it.

    Args:
        folder: The folder of the checkpoint.
        student: The student.
        modules: What is checkpointed beside it, by name.
        state: The position of the run, and what it consists of.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # An earlier run may have left a checkpoint here: until this one is whole, it must not look complete.
    (folder / TRAINER_STATE_NAME).unlink(missing_ok=True)
    save_modules(modules, folder)
    save_state({**state, "unmerged": save_unmerged(student, folder)}, folder)


def synchronize_buffers(*models: nn.Module) -> None:
    """Give every process the buffers of the first.

    Each process updates BatchNorm statistics from its own share of the batch. Without this the processes would
    evaluate different models, none of them the one that is saved.
    """
    for model in models:
        # Some are without content until there is some, in every process alike.
        for buffer in filter(Tensor.numel, model.buffers()):
            torch.distributed.broadcast(buffer, src=0)


def _checkpoint_step(path: Path) -> int | None:
    match = re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", path.name)
    return int(match.group(1)) if match and path.is_dir() else None
