"""A run with stages as users see it: one run, one count of steps and epochs, one progress bar that names the stage."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers import (
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations import TensorBoardCallback
from transformers.integrations.integration_utils import default_logdir
from transformers.trainer_callback import CallbackHandler
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from hf_abkd.teachers.source import TeacherSource
from hf_abkd.terminal import styled
from hf_abkd.training.life.interruption import Interruption
from hf_abkd.training.log_lines import bar_numbers, log_line, short_names, stage_line


@dataclass(frozen=True)
class Span:
    """Where a stage lies in the run.

    Args:
        index: Which stage, from 0.
        count: Of how many.
        name: Its name.
        start: Optimiser steps of the run before it.
        stop: Optimiser steps of the run when it is over.
        first_epoch: Epochs of the run before it.
        epochs: Epochs it takes.
        samples: Samples it trains on.
        terms: The names of its terms, as the log has them.
    """

    index: int
    count: int
    name: str
    start: int
    stop: int
    first_epoch: float
    epochs: float
    samples: float
    terms: tuple[str, ...] = ()

    @property
    def is_last(self) -> bool:
        """Whether the run is over with it."""
        return self.index == self.count - 1

    @property
    def title(self) -> str:
        """What it is called in the progress bar."""
        number = f"stage {self.index + 1}/{self.count}"
        return f"{number} {self.name}".rstrip() if self.count > 1 else self.name

    def labelled(self, logs: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is logged with the number of the stage, if there are several."""
        return {**logs, **({"stage": self.index + 1} if self.count > 1 else {})}

    def place(self, step: int) -> tuple[int, int, int]:
        """Return which stage it is, how many of its steps are done after this many of the run, and how many it has."""
        return self.index, step - self.start, self.stop - self.start

    def progress(self, step: int) -> float:
        """Return which share of the stage is done after this many steps of the run."""
        return min(1.0, max(0.0, (step - self.start) / max(1, self.stop - self.start)))


class StageFlow(TrainerCallback):
    """End a stage at its last step, and keep the epochs counting from the start of the run.

    It stands before all other callbacks, so that they see the run's epoch.
    """

    def __init__(self) -> None:
        self.span: Span | None = None
        # Whether the last step of the stage was done, and whether someone asked to end the whole run.
        self.stage_over = self.run_over = False
        # Whether the last step was that of an epoch.
        self.ends_epoch = False

    def start(self, span: Span) -> None:
        """Begin a stage."""
        self.span = span
        self.stage_over = self.run_over = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Treat the end of a stage as the trainer treats the end of training."""
        if self.span is None:
            return
        self.ends_epoch = float(state.epoch).is_integer()
        state.epoch += self.span.first_epoch
        if self.span.is_last or state.global_step < self.span.stop:
            return
        self.stage_over = True
        control.should_log = args.logging_strategy != IntervalStrategy.NO
        if args.eval_strategy == IntervalStrategy.STEPS and args.eval_delay <= state.global_step:
            control.should_evaluate = True
        if args.save_strategy == SaveStrategy.STEPS:
            control.should_save = True


class FollowStudent(TrainerCallback):
    """Has a teacher that learns from the student do so after each optimiser step, before anybody else sees its end."""

    def __init__(self, source: TeacherSource) -> None:
        self.source = source

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """Hand the student on."""
        self.source.follow(model, state.global_step)


def write_log_line(flow: StageFlow, state: TrainerState, logs: Mapping[str, Any]) -> None:
    """Print what was logged as one readable line; once, however many processes there are.

    Args:
        flow: Knows which stage runs.
        state: Where the run is.
        logs: What was logged.
    """
    if state.is_world_process_zero:
        span = flow.span
        stage = f"stage {span.index + 1}/{span.count}" if span is not None and span.count > 1 else ""
        short = {} if span is None else short_names(span.terms)
        _write(log_line(logs, step=state.global_step, steps=state.max_steps, stage=stage, short=short))


def _write(line: str, style: str = "") -> None:
    # Bars that are on the screen stay below it.
    tqdm.write(styled(line, style))
    # Who watches a file sees it now.
    sys.stdout.flush()


class StagePrinter(PrinterCallback):
    """Prints the log where there is no progress bar, a readable line for each entry."""

    def __init__(self, flow: StageFlow) -> None:
        super().__init__()
        self.flow = flow

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        """Print what was logged."""
        write_log_line(self.flow, state, logs)


class StageProgress(ProgressCallback):
    """The trainer's progress bar: the stage in front, loss, terms and agreement behind, and readable lines above it."""

    def __init__(self, flow: StageFlow) -> None:
        super().__init__()
        self.flow = flow

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        """Open the bar; a resumed run starts where it was."""
        super().on_train_begin(args, state, control, **kw)
        self.on_epoch_begin(args, state, control)

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Show which stage runs."""
        if self.training_bar is not None and self.flow.span is not None:
            self.training_bar.set_description(self.flow.span.title)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        """Print what was logged, and keep the newest of it beside the bar."""
        write_log_line(self.flow, state, logs)
        span = self.flow.span
        numbers = bar_numbers(logs, {} if span is None else short_names(span.terms))
        if self.training_bar is not None and numbers:
            self.training_bar.set_postfix_str(numbers)


class OneRunHandler(CallbackHandler):
    """Tells callbacks once that training begins, and keeps the end of a stage apart from a request to end the run."""

    began = False
    #: What watches out for signals, in a run that may be interrupted.
    interruption: Interruption | None = None

    def __init__(self, flow: StageFlow, callbacks: Iterable[TrainerCallback], *context: Any) -> None:
        self.flow = flow
        super().__init__([flow, *callbacks], *context)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl) -> TrainerControl:
        """Pass the event on in the first stage; in later ones only take back the request to stop."""
        self._mark_stage(state)
        if not self.began:
            self.began = True
            if self.interruption is not None:
                self.interruption.listen()
            return super().on_train_begin(args, state, control)
        control.should_training_stop = False
        return control

    def _mark_stage(self, state: TrainerState) -> None:
        """Print where a stage begins and what its terms are called, where its log is printed."""
        span = self.flow.span
        printed = any(isinstance(one, (StagePrinter, StageProgress)) for one in self.callbacks)
        if span is not None and printed and state.is_world_process_zero:
            steps, done = span.stop - span.start, max(0, state.global_step - span.start)
            line = stage_line(span.title, steps=steps, epochs=span.epochs, terms=span.terms, done=done)
            _write(line, "bold")

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any]
    ) -> TrainerControl:
        """Pass the event on; TensorBoard writes into the folder of the run before training begins, too.

        It would take `runs` in the current folder then, for what is measured before the first step.
        """
        for callback in self.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
                callback.logging_dir = str(Path(args.output_dir) / default_logdir())
        return super().on_log(args, state, control, logs)

    def call_event(
        self, event: str, args: TrainingArguments, state: TrainerState, control: TrainerControl, **context: Any
    ) -> TrainerControl:
        """Pass an event on; the trainer leaves its loop when the stage is over, and callbacks do not see that.

        Callbacks are also given `span`, where the running stage lies in the run: None before the first.
        """
        if self.flow.stage_over:
            control.should_training_stop = self.flow.run_over
        control = super().call_event(event, args, state, control, span=self.flow.span, **context)
        if self.interruption is not None:
            ends_epoch = self.flow.ends_epoch or self.flow.stage_over
            self.interruption.after_event(event, args, state, control, ends_epoch=ends_epoch)
        if self.flow.stage_over:
            self.flow.run_over = control.should_training_stop
            control.should_training_stop = True
        return control
