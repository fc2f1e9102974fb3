"""StageRunner: where each stage of a run lies, which one is on, and where a resumed run goes on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import TrainOutput

from hf_abkd.stages.arguments import DistillationArguments
from hf_abkd.terminal import bars_are_seen
from hf_abkd.training.progress import OneRunHandler, Span, StageFlow, StagePrinter, StageProgress
from hf_abkd.training.terms.run_stage import RunStage


@dataclass(frozen=True)
class StageLength:
    """How long a stage is, as the trainer works it out from its arguments and the data.

    Args:
        steps: Optimiser steps.
        steps_per_epoch: Optimiser steps of an epoch.
        samples: Samples that it trains on.
    """

    steps: int
    steps_per_epoch: int
    samples: float


@dataclass
class RunSums:
    """What the stages of one call of `train` hand on to the report at its end.

    Args:
        loss: The sum of the losses of all steps.
        first_step: The step that the call began at.
        start_time: When it began; 0 before.
    """

    loss: float = 0.0
    first_step: int = 0
    start_time: float = 0.0

    def add(self, loss: float, first_step: int, start_time: float) -> None:
        """Add what a stage that is over summed up, since this step and time."""
        if not self.start_time:
            self.first_step, self.start_time = first_step, start_time
        self.loss += loss

    def output(self, step: int) -> TrainOutput:
        """Return what stands for the report of a run that is not over, at a step."""
        return TrainOutput(step, self.loss / max(step - self.first_step, 1), {})


class StageRunner:
    """Keeps the place of a run in its stages, as one run: one count of steps, one log, each event of a callback once.

    Attributes:
        spans: Where each stage lies in the run, in steps; known once `train` was called.
        flow: Ends a stage at its last step.
        sums: What the stages of this call of `train` have handed on so far.
        early_logs: What was logged before its first step.
    """

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.flow = StageFlow()
        self.sums = RunSums()
        self.early_logs: list[dict[str, float]] = []

    def handler(self, callbacks: Iterable[TrainerCallback], *context: Any) -> OneRunHandler:
        """Return what tells callbacks of the events of the run; the bar names the stage, and the log is readable.

        A bar that nobody would see is left out.

        Args:
            callbacks: The callbacks of the trainer.
            context: What a `CallbackHandler` is made with besides them.
        """
        ours: dict[type, type[StageProgress] | type[StagePrinter]]
        ours = {ProgressCallback: StageProgress if bars_are_seen() else StagePrinter, PrinterCallback: StagePrinter}
        readable = [ours[type(one)](self.flow) if type(one) in ours else one for one in callbacks]
        return OneRunHandler(self.flow, readable, *context)

    # ---- Where the stages lie ----

    @property
    def span(self) -> Span:
        """Where the running stage lies.

        Raises:
            RuntimeError: If none runs.
        """
        if self.flow.span is None:
            raise RuntimeError("no stage is running; call `train()`")
        return self.flow.span

    @property
    def is_running(self) -> bool:
        """Whether a stage runs, or has run."""
        return self.flow.span is not None

    def begin_run(self, early_logs: list[dict[str, float]]) -> None:
        """Forget what an earlier call of `train` summed up.

        Args:
            early_logs: What was logged before the first step.
        """
        self.sums, self.early_logs = RunSums(), early_logs

    def place(
        self,
        stages: Sequence[RunStage],
        arguments: Sequence[DistillationArguments],
        measure: Callable[[DistillationArguments], StageLength],
    ) -> None:
        """Work out which steps of the run each stage takes.

        Args:
            stages: The stages.
            arguments: The training arguments of each.
            measure: Says how long a stage with these arguments is.
        """
        spans: list[Span] = []
        start, epoch = 0, 0.0
        for index, (stage, stage_arguments) in enumerate(zip(stages, arguments, strict=True)):
            length = measure(stage_arguments)
            epochs = length.steps / length.steps_per_epoch
            stop = start + length.steps
            terms = tuple(term.name for term in stage.all_terms())
            spans.append(Span(index, len(stages), stage.name, start, stop, epoch, epochs, length.samples, terms))
            start, epoch = stop, epoch + epochs
        self.spans = spans

    def fit(self, steps: int) -> None:
        """Give the running stage the steps it has: `auto_find_batch_size` may have halved the batch meanwhile."""
        now = self.span
        longer = steps - (now.stop - now.start)
        for span in self.spans[now.index :] if longer else []:
            start = span.start + (longer if span.index > now.index else 0)
            self.spans[span.index] = replace(span, start=start, stop=span.stop + longer)
        self.flow.start(self.spans[now.index])

    # ---- Resuming ----

    def describe(self, stages: Sequence[RunStage], index: int) -> dict[str, Any]:
        """Return the position in the stages and what they are, as a checkpoint holds it.

        Args:
            stages: The stages.
            index: Which of them runs.
        """
        return {
            "stage": index,
            "stages": [
                {"start": span.start, "stop": span.stop, **stage.describe()}
                for stage, span in zip(stages, self.spans, strict=True)
            ],
        }

    def resume_in(self, there: Mapping[str, Any], here: Mapping[str, Any], step: int, checkpoint: Path) -> int:
        """Return the stage that a resumed run goes on in; it begins afresh if the checkpoint is at its first step.

        Of a run that did all of its steps this is the number of stages.

        Args:
            there: The position and the stages of the checkpoint, as `describe` returned them.
            here: The stages of this run, likewise.
            step: The step at which the checkpoint was written.
            checkpoint: Its folder, for errors.

        Raises:
            ValueError: If the checkpoint is of other stages.
        """
        for number, (old, new) in enumerate(itertools.zip_longest(there["stages"], here["stages"])):
            before = number < there["stage"]
            # How long the current and later stages are may change, as with any Trainer; what they are may not.
            fixed = [k for k in {**(old or {}), **(new or {})} if k != "stop" and (before or k != "start")]
            changed = [key for key in fixed if old is None or new is None or old.get(key) != new.get(key)]
            if before and old["stop"] != new["stop"]:
                changed.append("stop")
            if changed:
                raise ValueError(
                    f"stage {number + 1} of {checkpoint} is {_chosen(old, changed)}, and of this run "
                    f"{_chosen(new, changed)}: they must agree to resume. Give the stages, batch size and number of "
                    "processes of that run, or use another output_dir. (start and stop are steps; a stage that is "
                    "over keeps its length, so that a longer run is one whose last stage becomes longer.)"
                )
        index: int = there["stage"]
        stop = self.spans[index].stop
        if step > stop:
            raise ValueError(
                f"{checkpoint} is at step {step}, and stage {index + 1} of this run ends at step {stop}. "
                "Make the stage longer, or go on from an earlier checkpoint."
            )
        # A stage that was just over is not gone on with: the next one starts from its weights.
        return index if step < stop else index + 1

    def number(self, state: TrainerState, args: DistillationArguments, *, resumed: bool) -> None:
        """Have the state of the trainer count steps and epochs over the whole run.

        Args:
            state: The state of the trainer, at the beginning of a stage.
            args: The arguments of the stage.
            resumed: Whether the state is that of a checkpoint.
        """
        if len(self.spans) == 1:
            return
        last = self.spans[-1]
        if not resumed:
            # Intervals below 1 are shares of the run.
            state.compute_steps(args, last.stop)
        state.max_steps = last.stop
        state.num_train_epochs = math.ceil(last.first_epoch + last.epochs)

    # ---- The end of a stage ----

    def hands_on(self, step: int) -> bool:
        """Whether another stage follows the one that ended at this step."""
        return not self.span.is_last and step >= self.span.stop and not self.flow.run_over

    def stopped(self, step: int) -> bool:
        """Whether the run ends with the stage that ended at this step, whatever follows it."""
        return self.flow.run_over or step < self.span.stop


def _chosen(stage: Mapping[str, Any] | None, keys: Sequence[str]) -> str:
    """Return what a checkpoint says of a stage under some keys, as text."""
    if stage is None:
        return "not there"
    return ", ".join(f"{key}: {stage.get(key, 'nothing')}" for key in keys)
