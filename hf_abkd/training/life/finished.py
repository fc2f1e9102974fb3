"""How a run ended, noted in its folder, so that running it again gives the same and changes nothing."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

from hf_abkd.files import write_json
from hf_abkd.training.life.checkpoints import incomplete
from hf_abkd.training.life.saved_state import read_finished, trainer_state

FINISHED_NAME = "finished_run.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinishedRun:
    """A run that did all of its steps.

    Args:
        checkpoint: The folder of the checkpoint with the weights that it ended with: of its last or its best step.
        state: The state of the trainer at the end, with the whole log.
        run: The make-up of the run, as checkpoints hold it.
        output: What `train` returned.
    """

    checkpoint: Path
    state: TrainerState
    run: dict[str, Any]
    output: TrainOutput


def note_end(folder: Path, state: TrainerState, run: dict[str, Any], output: TrainOutput, *, best: bool) -> None:
    """Write how a run ended into its folder, if the weights that it ended with are in a checkpoint.

    Args:
        folder: The folder of the run.
        state: The state of the trainer.
        run: The make-up of the run.
        output: What `train` returns.
        best: Whether the best model was loaded.
    """
    last = folder / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
    checkpoint = ended_at(last, state, run, best=best).checkpoint
    if checkpoint.is_dir():
        content = {"checkpoint": checkpoint.name, "state": asdict(state), "run": run, "output": output._asdict()}
        write_json(folder / FINISHED_NAME, content)


def noted_end(folder: Path) -> FinishedRun | None:
    """Return how the run in a folder ended; None if it did not, or its weights are not there any more."""
    path = folder / FINISHED_NAME
    if not path.is_file():
        return None
    try:
        content = read_finished(path)
    except ValueError as error:
        # Written whole or not at all: somebody else changed it. The checkpoints tell the rest.
        logger.warning("%s", error)
        return None
    checkpoint = folder / content["checkpoint"]
    if incomplete(checkpoint):
        return None
    return FinishedRun(
        checkpoint, trainer_state(content["state"], path), content["run"], TrainOutput(**content["output"])
    )


def forget_end(folder: Path) -> None:
    """Delete the note of how a run ended: it goes on, or another one begins."""
    (folder / FINISHED_NAME).unlink(missing_ok=True)


def ended_at(checkpoint: Path, state: TrainerState, run: dict[str, Any], *, best: bool) -> FinishedRun:
    """Return how a run ended whose last checkpoint is there, and no note of its end: it was killed in between.

    Args:
        checkpoint: The checkpoint of its last step.
        state: The state of the trainer in it.
        run: The make-up of the run in it.
        best: Whether the best model is loaded at the end.
    """
    if best and state.best_model_checkpoint is not None:
        checkpoint = checkpoint.parent / Path(state.best_model_checkpoint).name
    # What `train` would have returned beside the step is nowhere.
    return FinishedRun(checkpoint, state, run, TrainOutput(state.global_step, math.nan, {}))
