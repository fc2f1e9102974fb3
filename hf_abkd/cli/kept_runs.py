"""The runs of one command, each in a folder of its own: what is finished is kept when the command is given again."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_abkd.files import write_json
from hf_abkd.models.saving import restore_student
from hf_abkd.schema import checked, read_json
from hf_abkd.stages.arguments import DistillationArguments
from hf_abkd.terminal import styled
from hf_abkd.training.life import checkpoints
from hf_abkd.training.life.run_folder import holds_another_run
from hf_abkd.training.trainer import DistillationTrainer
from hf_abkd.wording import listed

#: In the output folder, the flags that all runs have in common; in the folder of a run, what it came to.
SETTINGS_NAME, OUTCOME_NAME = "runs.json", "outcome.json"
# Flags that change nothing of what a run comes to, or say which runs there are.
_FREE = {
    *("output_dir", "overwrite_output_dir", "resume_from_checkpoint", "seeds", "method", "compare", "adaptive"),
    *("token", "cache_dir", "push_to_hub", "report_to", "run_name", "project", "disable_tqdm", "debug", "local_rank"),
    *("measure_run", "pixel_cache", "save_strategy", "save_steps", "save_total_limit", "dataloader_num_workers"),
    *("dataloader_pin_memory", "dataloader_prefetch_factor", "dataloader_persistent_workers"),
}
_FREE_KINDS = ("hub_", "log_", "logging_", "trackio_", "ddp_")

_NO_SETTINGS = "--overwrite_output_dir begins all of its runs again"
_NO_OUTCOME = "Delete it, and the run goes on from its newest checkpoint"


class KeptRuns:
    """The runs of one command, which go on where they were interrupted if the command is given again.

    Args:
        args: The training arguments of the command; its output folder holds the folders of the runs.
        flags: All dataclasses that the command line filled.
        folders: Where the runs will be.
        count: How many are numbered, for the line that tells which one begins.

    Raises:
        ValueError: If the folder holds runs with other flags, or a folder of a run holds one that is not of them.
    """

    def __init__(
        self, args: DistillationArguments, flags: Iterable[Any], folders: Sequence[Path], *, count: int
    ) -> None:
        self.folder, self.count, self.number = Path(args.output_dir), count, 0
        self._tells = args.process_index == 0
        settings = settings_of(flags)
        self._known = not args.overwrite_output_dir and (self.folder / SETTINGS_NAME).is_file()
        if self._known:
            _check_same(_read(self.folder / SETTINGS_NAME, _NO_SETTINGS), settings, self.folder)
        elif not args.overwrite_output_dir:
            _check_free(folders)
        # Every process has looked before the first one writes.
        args.distributed_state.wait_for_everyone()
        if self._tells and not self._known:
            self.folder.mkdir(parents=True, exist_ok=True)
            for outcome in self.folder.glob(f"*/{OUTCOME_NAME}"):
                outcome.unlink()
            write_json(self.folder / SETTINGS_NAME, settings)

    def result(
        self,
        title: str,
        args: DistillationArguments,
        train: Callable[[DistillationArguments], Mapping[str, Any]],
        *,
        schema: Any = dict[str, Any],
        numbered: bool = True,
    ) -> dict[str, Any]:
        """Return what a run came to: that of before if it is finished, else what `train` returns.

        Args:
            title: What the run is called.
            args: Its training arguments. Those that `train` is called with go on from its newest complete checkpoint.
            train: Trains and saves the student, and returns what JSON can hold.
            schema: What the result must be like where it is read, a dataclass or another type that pydantic knows.
            numbered: Whether it is one of those that are counted.

        Raises:
            ValueError: If what a finished run came to is damaged.
        """
        folder = Path(args.output_dir)
        self.number += numbered
        name = f"run {self.number} of {self.count}: {title}" if numbered else title
        finished = self.outcome(folder)
        if finished is not None:
            checked(finished, schema, origin=folder / OUTCOME_NAME, remedy=_NO_OUTCOME)
            self._tell(f"{name} (finished before, in {folder})")
            return finished
        args, told = self._continued(args)
        self._tell(f"{name}{told}")
        outcome = dict(train(args))
        if self._tells:
            write_json(folder / OUTCOME_NAME, outcome)
        return outcome

    def model(
        self,
        name: str,
        model: PreTrainedModel,
        args: DistillationArguments,
        trainer_of: Callable[[DistillationArguments], DistillationTrainer],
    ) -> PreTrainedModel:
        """Train a model that the runs learn from and return it, or read it if that is finished.

        Args:
            name: What it is, and its folder in the output folder.
            model: The model, with the weights that it starts from.
            args: The training arguments, but for the folder.
            trainer_of: Returns its trainer with the arguments that it is given.
        """
        folder = self.folder / name
        if self.outcome(folder) is not None:
            restore_student(model, folder)

        def trained(args: DistillationArguments) -> dict[str, Any]:
            trainer = trainer_of(args)
            trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
            trainer.save_model()
            return {}

        # What is published and measured is the students.
        changes: dict[str, Any] = {"output_dir": str(folder), "push_to_hub": False, "measure_run": False}
        self.result(name, replace(args, **changes), trained, numbered=False)
        # Where it lies, as of a model that was loaded from there.
        model.config.name_or_path = str(folder)
        return model

    def outcome(self, folder: Path) -> dict[str, Any] | None:
        """Return what a run came to, if it is finished and its student is there."""
        path = folder / OUTCOME_NAME
        if not self._known or not path.is_file() or not any(folder.glob("model*.safetensors")):
            return None
        return _read(path, _NO_OUTCOME)

    def _continued(self, args: DistillationArguments) -> tuple[DistillationArguments, str]:
        """Return the arguments with which a run goes on, and what is told of that."""
        changes: dict[str, Any] = {"resume_from_checkpoint": None}
        if not self._known:
            return replace(args, **changes), ""
        found = checkpoints.checkpoints(Path(args.output_dir))
        newest = next((path for path in reversed(found) if checkpoints.incomplete(path) is None), None)
        if newest is None:
            # What is there was cut off, and is of these runs.
            return replace(args, **changes, overwrite_output_dir=True), ""
        changes["resume_from_checkpoint"] = True
        return replace(args, **changes), f", from {newest.name}"

    def _tell(self, line: str) -> None:
        if self._tells:
            tqdm.write(styled(line, "bold"))
            sys.stdout.flush()


def _read(path: Path, remedy: str) -> dict[str, Any]:
    return checked(read_json(path, remedy=remedy), dict[str, Any], origin=path, remedy=remedy)


def settings_of(flags: Iterable[Any]) -> dict[str, Any]:
    """Return the values of flags that decide what runs come to, by name, as JSON holds them."""
    values = {one.name: getattr(given, one.name) for given in flags for one in fields(given) if one.init}
    kept = {name: value for name, value in values.items() if name not in _FREE and not name.startswith(_FREE_KINDS)}
    settings: dict[str, Any] = json.loads(json.dumps(kept, default=str))
    return settings


def _check_same(there: Mapping[str, Any], here: Mapping[str, Any], folder: Path) -> None:
    """Refuse to go on with runs whose flags were others."""
    other = [name for name in here if name in there and there[name] != here[name]]
    if other:
        was = [f"--{name} {_word(there[name])} (now {_word(here[name])})" for name in other]
        raise ValueError(
            f"the runs in {folder} were made with {listed(was)}. Give the same flags to go on with them, choose "
            "another --output_dir, or start again by --overwrite_output_dir"
        )


def _check_free(folders: Sequence[Path]) -> None:
    """Refuse folders that hold runs of which nobody knows the flags."""
    found = [str(folder) for folder in folders if holds_another_run(folder)]
    if found:
        raise ValueError(
            f"{listed(found)} hold other runs: choose another --output_dir, or --overwrite_output_dir deletes their "
            "checkpoints"
        )


def _word(value: Any) -> str:
    if value is None:
        return "left out"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
