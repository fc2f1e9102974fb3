"""A run that is asked to end by a signal: it finishes its step, saves, says how to go on, and ends."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from transformers import TrainerControl, TrainerState, TrainingArguments

# What a terminal sends for Ctrl-C, and what a scheduler sends before it ends a job.
SIGNALS = (signal.SIGINT, signal.SIGTERM)
# About how often several processes ask each other, in seconds; asking in each step would hold up the device.
_ASK_SECONDS = 2.0
_MOST_STEPS = 50

logger = logging.getLogger(__name__)


class Interruption:
    """Watches out for signals while a run trains, and ends it where it can be gone on with exactly.

    That is the end of a step, behind its log and evaluation, or the end of an epoch if the step is its last.

    Args:
        accelerator: To agree with the other processes: a signal may reach one of them only, or each in another step.

    Attributes:
        stopped: Whether the run was ended, and saved, before its last step.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._handlers: dict[int, Any] = {}
        self._received = self._agreed = 0
        self._process = os.getpid()
        self._ask_at, self._asked, self._time = 0, 0, time.monotonic()
        self._ends_epoch = False
        self._saved = -1
        self.stopped = False

    # ---- Signals ----

    def listen(self) -> None:
        """Take the signals over, where nobody else has: in a thread other than the main one no signal arrives."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number, usual in zip(SIGNALS, (signal.default_int_handler, signal.SIG_DFL), strict=True):
            if signal.getsignal(number) == usual:
                self._handlers[number] = signal.signal(number, self._receive)

    def leave(self) -> None:
        """Give the signals back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _receive(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A worker of a data loader, which was forked: its process lives on, and ends it.
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        if self._received and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self._received:
            # A launcher that is ended by Ctrl-C itself has its process sent SIGTERM, too.
            return
        self._received = number
        # Not by the log, which may be writing just now.
        again = " (once more ends it at once)" if number == signal.SIGINT else ""
        os.write(2, f"\n{signal.Signals(number).name}: finishing the step, then saving{again}\n".encode())

    # ---- The run ----

    def after_event(
        self, event: str, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, ends_epoch: bool
    ) -> None:
        """Look after each event of a run, behind all callbacks, and change what is to be done next if it has to end.

        Args:
            event: The name of the event.
            args: The arguments of the stage.
            state: The state of the trainer.
            control: What is to be done next.
            ends_epoch: Whether the last step was that of an epoch or a stage.
        """
        if event == "on_save":
            self._saved = state.global_step
        elif event == "on_step_end":
            # The log and evaluation of an epoch come behind the end of its last step.
            self._ends_epoch = ends_epoch or state.global_step >= state.max_steps
            if not self._ends_epoch and self._has_to_end(state.global_step):
                self._end(args, control)
        elif event == "on_epoch_end" and self.stopped:
            control.should_log = control.should_evaluate = control.should_save = False
        elif event == "on_epoch_end" and self._has_to_end(state.global_step) and state.global_step < state.max_steps:
            more = control.should_log or control.should_evaluate
            self._end(args, control, saves=more or self._saved != state.global_step)

    def _end(self, args: TrainingArguments, control: TrainerControl, *, saves: bool = True) -> None:
        # Weights alone cannot be gone on with.
        args.save_only_model = False
        control.should_save = control.should_save or saves
        control.should_training_stop = self.stopped = True

    def _has_to_end(self, step: int) -> bool:
        """Whether a signal has reached a process; several agree on that in the same steps."""
        if self._accelerator.num_processes == 1:
            self._agreed = self._received
        elif not self._agreed and (step >= self._ask_at or self._ends_epoch):
            now = time.monotonic()
            known = [float(self._received == number) for number in SIGNALS]
            answer = torch.tensor([*known, now - self._time], device=self._accelerator.device)
            *received, seconds = self._accelerator.reduce(answer, "mean").tolist()
            each = seconds / max(step - self._asked, 1)
            self._ask_at = step + min(_MOST_STEPS, max(1, int(_ASK_SECONDS / max(each, 1e-6))))
            self._asked, self._time = step, now
            self._agreed = next((number for number, share in zip(SIGNALS, received, strict=True) if share), 0)
        return self._agreed != 0

    def end_process(self, step: int, folder: str) -> None:
        """Say how to go on and end the process as the signal would have done; nothing if there was none.

        Args:
            step: How many steps are done.
            folder: The folder of the run.

        Raises:
            KeyboardInterrupt: After Ctrl-C.
            SystemExit: After SIGTERM, with the status 143.
        """
        # One may have come in the last evaluation or checkpoint, since when nobody has looked.
        self._ends_epoch = True
        if not self._has_to_end(step):
            return
        if self._accelerator.is_main_process:
            name = signal.Signals(self._agreed).name
            done = (
                f"the run is saved at step {step}, in {folder}. The same command goes on with "
                "--resume_from_checkpoint auto, and in Python trainer.train(resume_from_checkpoint=True)"
                if self.stopped
                else f"the run in {folder} did all of its {step} steps"
            )
            logger.warning("%s: %s.", name, done)
        if self._agreed == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self._agreed)
