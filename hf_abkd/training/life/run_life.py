"""RunLife: a run in its folder, from where a call of `train` begins it or goes on, to what is noted of its end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn
from tqdm.auto import tqdm
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import SaveStrategy, TrainOutput

from hf_abkd.data.machines import hosts_where
from hf_abkd.reports.file_names import EVALUATION_NAME
from hf_abkd.stages.arguments import DistillationArguments
from hf_abkd.teachers.source import TeacherSource
from hf_abkd.training.life import checkpoints
from hf_abkd.training.life.finished import FinishedRun, ended_at, forget_end, note_end, noted_end
from hf_abkd.training.life.held_folder import checkpoint_size, writing
from hf_abkd.training.life.interruption import Interruption
from hf_abkd.training.life.make_up import check_make_up
from hf_abkd.training.life.run_folder import AUTO, check_folder, checkpoint_of, claim_folder, sweep
from hf_abkd.training.life.saved_state import STATE_NAME, read_saved, trainer_state
from hf_abkd.training.life.together import on_first
from hf_abkd.training.progress import OneRunHandler
from hf_abkd.training.stage_runner import StageRunner
from hf_abkd.wording import listed


@dataclass(frozen=True)
class RunStart:
    """Where a run begins, or goes on.

    Args:
        stage: The stage that it begins with; behind the last one if the run is over.
        checkpoint: What it goes on from; None of a new run.
        is_inside: Whether the checkpoint lies inside of this stage, and not at the end of the one before.
        weights: The checkpoint with its weights, which are the best ones if the run is over and loaded them.
        state: The state of the trainer in the checkpoint.
        saved: What the checkpoint tells of the run.
    """

    stage: int = 0
    checkpoint: Path | None = None
    is_inside: bool = False
    weights: Path | None = None
    state: TrainerState | None = None
    saved: Mapping[str, Any] = field(default_factory=dict)

    @property
    def resumes(self) -> str | None:
        """The checkpoint that the first stage goes on from; None if the stage begins."""
        return str(self.checkpoint) if self.is_inside else None


class RunLife:
    """The life of a run, in one call of `train` after another.

    Args:
        arguments: Returns the training arguments of the run, as they are now.
        accelerator: To reach the other processes.

    Attributes:
        interruption: Ends the run when a signal asks for it.
        checkpoint: What this call was asked to go on from; None for a new run.
        ended: How the run ended, if nothing of it is left to do; None otherwise.
        teacher: What identifies the teacher, since the run began.
        made_of: What the run is made of beside models and stages.
    """

    def __init__(self, arguments: Callable[[], DistillationArguments], accelerator: Accelerator) -> None:
        self._arguments, self._accelerator = arguments, accelerator
        self.interruption = Interruption(accelerator)
        self.checkpoint: Path | None = None
        self.ended: FinishedRun | None = None
        self.teacher: dict[str, Any] | None = None
        self.made_of: dict[str, Any] = {}
        # Whether the folder was taken, and what a new run may do with checkpoints of which none can be gone on from.
        self._owns_folder = self._begins_anyway = False

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return Path(self._arguments().output_dir)

    @contextmanager
    def running(self, student: nn.Module, handler: OneRunHandler, *, shares_folder: bool) -> Iterator[None]:
        """Keep the folder for the run meanwhile, and watch out for signals once it trains.

        Args:
            student: The student.
            handler: Tells callbacks of the events of the run.
            shares_folder: Whether it is one of several trials in the folder, each of which has a folder of its own.
        """
        saves = self._arguments().save_strategy != SaveStrategy.NO
        size = checkpoint_size(student)
        self.interruption = handler.interruption = Interruption(self._accelerator)
        try:
            with nullcontext() if shares_folder else writing(self.folder, size, self._accelerator, saves=saves):
                yield
        finally:
            self.interruption.leave()

    # ---- The beginning ----

    def choose(self, asked: str | os.PathLike[str] | bool | None) -> None:
        """Find what the run is asked to go on from, and whether it has ended there; see `checkpoint_of`."""
        folder, overwrite = self.folder, self._arguments().overwrite_output_dir
        self.checkpoint = on_first(lambda: checkpoint_of(asked, folder, overwrite=overwrite), self._accelerator)
        self._begins_anyway = asked == AUTO and not overwrite
        if self.checkpoint is not None:
            # A process that does not find it would end alone, and the others would wait for it.
            is_here = (self.checkpoint / STATE_NAME).is_file()
            lacking, having = hosts_where(not is_here), hosts_where(is_here)
            if lacking and having:
                raise ValueError(
                    f"the checkpoint {self.checkpoint} lies on {listed(having)}, and processes on {listed(lacking)} do "
                    "not find it: every machine reads it, so put the output folder on a file system that they share, "
                    "or copy the checkpoint to each of them, with the rng_state files of all"
                )
        self.ended = noted_end(folder) if self.checkpoint is not None and asked in (True, AUTO) else None

    def start(self, runner: StageRunner, here: Callable[[], Mapping[str, Any]]) -> RunStart:
        """Return where the run begins or goes on.

        Args:
            runner: Knows where the stages lie.
            here: Returns what a checkpoint of this run would tell of it.

        Raises:
            ValueError: If the checkpoint is of another run: another teacher, other stages, images or seeds.
        """
        if self.ended is not None and self.ended.state.global_step != runner.spans[-1].stop:
            self.ended = None
        if self.checkpoint is None:
            return RunStart()
        checkpoint, saved, ours = self.checkpoint, checkpoints.load_state(self.checkpoint), here()
        place = checkpoint / TRAINER_STATE_NAME
        state = trainer_state(read_saved(place), place)
        if self.ended is not None:
            checkpoint, saved, state = self.ended.checkpoint, self.ended.run, self.ended.state
        state.is_local_process_zero = self._accelerator.is_local_main_process
        state.is_world_process_zero = self._accelerator.is_main_process
        checkpoints.check_same_teacher(saved, ours, checkpoint, goes_on=self.ended is None)
        check_make_up(saved.get("made_of"), self.made_of, checkpoint, self._arguments())
        stage = runner.resume_in(saved, ours, state.global_step, checkpoint)
        if stage == len(runner.spans) and self.ended is None:
            self.ended = ended_at(checkpoint, state, saved, best=self._arguments().load_best_model_at_end)
        weights = checkpoint if self.ended is None else self.ended.checkpoint
        return RunStart(stage, checkpoint, stage == saved["stage"], weights, state, saved)

    def check_folder(self) -> None:
        """Refuse a folder that `take_folder` would refuse, and change nothing in it."""
        on_first(lambda: self._claim(check_folder), self._accelerator)

    def take_folder(self) -> None:
        """Delete what killed runs left in the folder, and what was told of an end; refuse a folder of another run."""

        def take() -> None:
            self._claim(claim_folder)
            sweep(self.folder)
            forget_end(self.folder)
            # It was measured of a student that will be another one.
            (self.folder / EVALUATION_NAME).unlink(missing_ok=True)

        on_first(take, self._accelerator)
        self._owns_folder = True

    def _claim(self, claim: Callable[..., None]) -> None:
        if self.checkpoint is None and not self._owns_folder:
            overwrite = self._arguments().overwrite_output_dir
            claim(self.folder, overwrite=overwrite, begins_anyway=self._begins_anyway)

    # ---- What checkpoints hold of it ----

    def describe(self, source: TeacherSource) -> dict[str, Any]:
        """Return what a resumed run must have in common with this one, as a checkpoint holds it.

        Args:
            source: What teaches the student.
        """
        return {
            "world_size": self._arguments().world_size,
            "made_of": self.made_of,
            "teacher": self.teacher,
            "changed_teacher": None if self.teacher is None else source.changed(self.teacher),
        }

    # ---- The end ----

    def tell_end(self, ended: FinishedRun) -> TrainOutput:
        """Say that the run is over, and return what `train` returned when it ended."""
        if self._accelerator.is_main_process:
            tqdm.write(f"The run in {self._arguments().output_dir} is over, at step {ended.state.global_step}.")
        return ended.output

    def end(self, state: TrainerState, output: TrainOutput, run: Callable[[], dict[str, Any]] | None) -> None:
        """Note how the run ended, and end the process if a signal asked for it; see `Interruption.end_process`.

        Args:
            state: The state of the trainer.
            output: What `train` returns.
            run: Returns what a checkpoint of the run would tell of it; None if nothing is to be noted, as there is
                more to do.
        """
        args = self._arguments()
        if run is not None and args.should_save:
            note_end(self.folder, state, run(), output, best=args.load_best_model_at_end)
        self.interruption.end_process(state.global_step, args.output_dir)
