"""The JSON files that a run goes on from: what they must hold, checked before any of it is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState

from hf_abkd.models.start import Start
from hf_abkd.models.weight_files import INDEX_NAME
from hf_abkd.schema import Finite, NotNegative, Positive, checked, read_json

STATE_NAME = "distillation_state.json"
STATE_FORMAT = 2
_REMEDY = "Get this file again"
_PASSED_OVER = "It is passed over: the checkpoints tell the rest"


@dataclass(frozen=True)
class _Stage:
    """What is used of the description of a stage; the rest is compared with that of the run."""

    start: NotNegative
    stop: NotNegative


@dataclass(frozen=True)
class _MakeUp:
    fixed: dict[str, Any]
    settings: dict[str, Any]


@dataclass(frozen=True)
class _Measuring:
    count: NotNegative
    sum: list[float] | None


@dataclass(frozen=True)
class _Balance:
    factors: dict[str, list[Finite]]
    measuring: _Measuring | None


@dataclass(frozen=True)
class _Rows:
    """Of a stream also the pass that was on, its steps, and the rows in front of each worker."""

    seed: int
    first: Any = None
    steps: NotNegative = 0


@dataclass(frozen=True)
class _Routes:
    anchors: list[list[str] | None]
    chosen: list[list[tuple[int, int]]]


@dataclass(frozen=True)
class _SavedRun:
    """The position of a run in its stages and what it consists of; `DistillationTrainer.run_state` writes it."""

    stage: NotNegative
    stages: tuple[_Stage, ...]
    teacher: dict[str, Any] | None
    balance: _Balance
    routes: _Routes | None = None
    rows: _Rows | None = None
    made_of: _MakeUp | None = None
    changed_teacher: str | None = None
    world_size: Positive = 1
    unmerged: bool = False
    start: Start | None = None

    def __post_init__(self) -> None:
        if self.stage >= len(self.stages):
            raise ValueError(f"stage is {self.stage}, and there are {len(self.stages)}, counted from 0")


@dataclass(frozen=True)
class _SavedTrainer:
    """What is used of the state that the Trainer writes."""

    global_step: NotNegative
    max_steps: int
    epoch: Finite | None
    log_history: list[dict[str, Any]]
    num_train_epochs: int = 0
    best_model_checkpoint: str | None = None
    best_global_step: int | None = None
    best_metric: float | None = None
    train_batch_size: int | None = None
    stateful_callbacks: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Index:
    weight_map: dict[str, str]


@dataclass(frozen=True)
class _Output:
    global_step: NotNegative
    training_loss: float
    metrics: dict[str, Any]


@dataclass(frozen=True)
class _Finished:
    """The note of how a run ended."""

    checkpoint: str
    state: _SavedTrainer
    run: _SavedRun
    output: _Output


_SCHEMAS: dict[str, Any] = {
    STATE_NAME: _SavedRun,
    TRAINER_STATE_NAME: _SavedTrainer,
    INDEX_NAME: _Index,
}


def read_saved(path: Path) -> dict[str, Any]:
    """Return what a JSON file of a checkpoint holds.

    Raises:
        ValueError: If it is damaged, or holds something else than such a file.
    """
    found = checked(read_json(path, remedy=_REMEDY), dict[str, Any], origin=path, remedy=_REMEDY)
    # What another version wrote is not damaged: `check_format` refuses it.
    of_another = path.name == STATE_NAME and found.get("format", STATE_FORMAT) != STATE_FORMAT
    if path.name in _SCHEMAS and not of_another:
        checked(found, _SCHEMAS[path.name], origin=path, remedy=_REMEDY)
    return found


def check_format(state: Mapping[str, Any], path: Path) -> None:
    """Refuse the position of a run that another version of this package wrote.

    Raises:
        ValueError: If it is one.
    """
    if state.get("format") != STATE_FORMAT:
        raise ValueError(f"{path} has format {state.get('format')!r}; this version reads {STATE_FORMAT}")


def read_finished(path: Path) -> dict[str, Any]:
    """Return what the note of how a run ended holds; the errors are those of `read_saved`."""
    found = read_json(path, remedy=_PASSED_OVER)
    checked(found, _Finished, origin=path, remedy=_PASSED_OVER)
    if Path(found["checkpoint"]).name != found["checkpoint"]:
        raise ValueError(f"{path} is damaged: {found['checkpoint']!r} is no folder beside it. {_PASSED_OVER}")
    return {key: found[key] for key in ("checkpoint", "state", "run", "output")}


def trainer_state(content: Mapping[str, Any], path: Path) -> TrainerState:
    """Return the state of a trainer that stood in a file.

    Raises:
        ValueError: If it has fields that this version of transformers does not know.
    """
    try:
        return TrainerState(**content)
    except TypeError as error:
        raise ValueError(f"{path} was written by another version of transformers: {error}") from error
