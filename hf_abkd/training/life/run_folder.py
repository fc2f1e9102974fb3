"""Which checkpoint a run goes on from, and what a new run does with what it finds in its folder."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME

from hf_abkd.files import leftovers
from hf_abkd.training.life.checkpoints import MODULES_NAME, checkpoints, incomplete
from hf_abkd.training.life.saved_state import STATE_NAME

#: Go on from the newest complete checkpoint, or begin if there is none.
AUTO = "auto"
_SCRATCH = "_saving-*"

logger = logging.getLogger(__name__)


def checkpoint_of(asked: str | os.PathLike[str] | bool | None, folder: Path, *, overwrite: bool = False) -> Path | None:
    """Return the checkpoint that a run is asked to go on from; None for a new run.

    Args:
        asked: A folder; True for the newest complete checkpoint of a run; "auto" for the same if there is one, and a
            new run otherwise; or None or False.
        folder: The folder of the run.
        overwrite: Whether a new run was asked for that deletes the checkpoints in the folder, as "auto" then begins.

    Raises:
        ValueError: If there is no complete checkpoint.
    """
    if asked is None or asked is False or (asked == AUTO and overwrite):
        return None
    if asked is not True and asked != AUTO:
        return Path(asked)
    found, reasons = _newest(folder)
    if found is None and asked is True:
        raise ValueError(
            f"there is no checkpoint to resume from in {folder}"
            + (f" ({'; '.join(reasons)})" if reasons else "")
            + f'; resume_from_checkpoint="{AUTO}" (--resume_from_checkpoint {AUTO}) begins where there is none'
        )
    return found


def _newest(folder: Path) -> tuple[Path | None, list[str]]:
    """Return the newest complete checkpoint, if there is one, and why newer ones are passed over, which is told."""
    reasons: list[str] = []
    for path in reversed(checkpoints(folder)):
        if (problem := incomplete(path)) is None:
            return path, reasons
        reasons.append(f"{path.name}: {problem}")
        logger.warning("%s is not used to resume: %s", path, problem)
    return None, reasons


def claim_folder(folder: Path, *, overwrite: bool, begins_anyway: bool) -> None:
    """Take the folder of a new run, which must not hold another one.

    Args:
        folder: The folder.
        overwrite: Whether the checkpoints of another run are deleted.
        begins_anyway: Whether checkpoints that no run can go on from are left to be overwritten.

    Raises:
        ValueError: If it holds another run and `overwrite` is not set.
    """
    sweep(folder)
    check_folder(folder, overwrite=overwrite, begins_anyway=begins_anyway)
    if overwrite:
        for path in checkpoints(folder):
            shutil.rmtree(path)


def check_folder(folder: Path, *, overwrite: bool, begins_anyway: bool) -> None:
    """Refuse a folder that `claim_folder` would refuse, and change nothing in it; the arguments are the same."""
    names = holds_another_run(folder, begins_anyway=begins_anyway)
    if names and not overwrite:
        goes_on = (
            "Go on with it by resume_from_checkpoint=True (--resume_from_checkpoint True)"
            if checkpoints(folder)
            else "It has no checkpoint to go on from: move it away"
        )
        raise ValueError(
            f"the output folder {folder} holds another run: {names[:5]}. {goes_on}, choose another output_dir, or set "
            "overwrite_output_dir=True (--overwrite_output_dir) to delete its checkpoints."
        )


def holds_another_run(folder: Path, *, begins_anyway: bool = False) -> list[str]:
    """Return the names in a folder that a new run would mix with or overwrite.

    Args:
        folder: The folder.
        begins_anyway: Whether checkpoints do not count; the caller has found that no run can go on from them.
    """
    weights = sorted(path.name for path in folder.glob("model*.safetensors")) if folder.is_dir() else []
    there = [] if begins_anyway else [path.name for path in checkpoints(folder) if not _was_cut_off(path)]
    return there + weights


def sweep(folder: Path) -> None:
    """Delete what a killed run left of files and checkpoints that it was writing."""
    for place in (folder, *checkpoints(folder)):
        for path in leftovers(place):
            path.unlink()
        for path in place.glob(_SCRATCH):
            shutil.rmtree(path)
    for path in checkpoints(folder):
        if _was_cut_off(path):
            logger.warning("%s is deleted: the run was killed while it was written", path)
            shutil.rmtree(path)


def _was_cut_off(checkpoint: Path) -> bool:
    """Whether a checkpoint of this package was never finished; those of other programs have no such files."""
    if (checkpoint / TRAINER_STATE_NAME).is_file():
        return False
    names = {path.name for path in checkpoint.iterdir()}
    return bool(names & {MODULES_NAME, STATE_NAME}) or all(name.startswith("rng_state") for name in names)
