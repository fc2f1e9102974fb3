"""Step: what one training batch goes through, from the data loader to the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn

from hf_abkd.data.batch import Batch, BatchReader
from hf_abkd.layers.single_values import by_running_statistics
from hf_abkd.layers.sums import row_sums
from hf_abkd.stages.extension import Extender
from hf_abkd.teachers.source import TeacherSource
from hf_abkd.training.augmented_views import AugmentedViews
from hf_abkd.training.finiteness import FiniteWatch
from hf_abkd.training.meter import Meter
from hf_abkd.training.progress import Span
from hf_abkd.training.split_momentum import SplitMomentumSGD
from hf_abkd.training.stage_module import wanted_of
from hf_abkd.training.task_gradients import TaskGradients
from hf_abkd.training.terms.balance import TermBalance
from hf_abkd.training.terms.distiller import Distiller
from hf_abkd.training.terms.joint_distiller import JointDistiller
from hf_abkd.training.terms.run_stage import RunStage


@dataclass(frozen=True)
class StepParts:
    """What a step hands on to.

    Args:
        stage: The stage that runs.
        span: Where it lies in the run.
        module: What it trains, neither wrapped nor compiled.
        source: What teaches it.
        reader: Makes a batch of what the data loader gives.
        views: Which view of each image is shown.
        extender: What extends the batches; None for nothing.
        balance: What measures the terms against each other in the first steps.
        accelerator: For autocast, the device and the mean over processes.
        channels_last: Whether the student takes its images with their channels together in memory.
        meter: What keeps the means of the terms for the log.
    """

    stage: RunStage
    span: Span
    module: Distiller | JointDistiller
    source: TeacherSource
    reader: BatchReader
    views: AugmentedViews
    extender: Extender | None
    balance: TermBalance
    accelerator: Accelerator
    channels_last: bool
    meter: Meter = field(default_factory=Meter)


@contextmanager
def asked_meanwhile(source: TeacherSource, step: Step | None) -> Iterator[None]:
    """Have a teacher give afterwards what the running stage reads: a callback may ask in the middle of it.

    Args:
        source: What teaches the student.
        step: The step of the stage that runs; None between stages.
    """
    try:
        yield
    finally:
        if step is not None:
            source.begin(wanted_of(step.parts.stage))


class Step:
    """Computes the loss of one training batch after another, in one stage.

    Args:
        parts: What it hands on to.
    """

    def __init__(self, parts: StepParts) -> None:
        self.parts = parts
        # How many steps of the run were done at the last batch, and which batch of its step that was.
        self._step, self._micro_batch = -1, 0
        student = parts.module if isinstance(parts.module, Distiller) else parts.module.student
        named = [f"{term.name!r} ({term.term.pair})" for term in parts.stage.all_terms()]
        self.watch = FiniteWatch(parts.span, named, list(student.points), parts.accelerator)
        self._rows: dict[str, Tensor] = {}
        #: What gathers the gradient of the task, where the momentum is split.
        self.task_gradients: TaskGradients | None = None

    def anew(self, accelerator: Accelerator) -> Step:
        """Return a step of the same parts that begins again, with the accelerator that there is by now."""
        return Step(replace(self.parts, meter=Meter(), accelerator=accelerator))

    def split(self, optimizer: torch.optim.Optimizer) -> None:
        """Have an optimiser told in each step which part of the gradient is of the task.

        Args:
            optimizer: A `SplitMomentumSGD`, which Accelerate may have wrapped.
        """
        inner = optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer
        if not isinstance(inner, SplitMomentumSGD):
            raise TypeError(f"a split momentum is one of SplitMomentumSGD, got {type(inner).__name__}")
        self.task_gradients = TaskGradients(self.parts.module, inner, self.parts.accelerator)

    def __call__(
        self,
        module: nn.Module,
        inputs: Mapping[str, Any],
        *,
        step: int,
        progress: float,
        share: float,
        log: Callable[[dict[str, float]], None],
    ) -> dict[str, Tensor]:
        """Return what the module says of a batch: see `Distiller.forward`.

        Args:
            module: The module of the stage, as Accelerate wrapped it.
            inputs: What the data loader gives, on the device.
            step: How many steps of the run are done.
            progress: How much of the stage is done, from 0 to 1.
            share: Which share of an optimiser step this batch is.
            log: Takes what was measured of the terms.

        Raises:
            RuntimeError: If something is not finite, here or in batches before (see `FiniteWatch`).
        """
        parts = self.parts
        self._micro_batch = self._micro_batch + 1 if step == self._step else 0
        self._step = step
        batch = parts.reader.read(inputs, parts.views.of_batch(step, self._micro_batch))
        samples, self._rows = batch.samples, {"the images": row_sums(batch.student[batch.images])}
        targets: Mapping[str, Any] = self._targets(batch)
        if parts.extender is not None:
            batch, targets = self._extended(parts.extender, batch, targets, progress)
        if parts.channels_last:
            images = batch.student[batch.images]
            batch.student[batch.images] = images.contiguous(memory_format=torch.channels_last)
        with by_running_statistics(parts.module) if batch.has_single_image else nullcontext():
            outputs = self._outputs(module, batch, targets, progress, log)
        self.watch.add(step + 1, outputs, self._rows, samples)
        if self.task_gradients is not None:
            self.task_gradients.add(outputs, share)
        parts.meter.add(outputs["terms"], outputs.get("agreement"), share)
        return outputs

    def _outputs(
        self,
        module: nn.Module,
        batch: Batch,
        targets: Mapping[str, Any],
        progress: float,
        log: Callable[[dict[str, float]], None],
    ) -> dict[str, Tensor]:
        """Return what the module says of a batch, after its terms were measured against each other."""
        parts = self.parts
        if self._micro_batch == 0 and isinstance(parts.module, Distiller) and parts.balance.is_measuring:
            self.watch.check()
            measured = parts.balance.measure(parts.module, batch, targets, progress, parts.accelerator)
            if measured is not None:
                log(measured)
        # Made on the CPU: a copy that waits for the device would hold up every step.
        weights = torch.tensor([term.weight_at(progress) for term in parts.stage.all_terms()])
        weights = weights.to(parts.accelerator.device, non_blocking=True)
        outputs: dict[str, Tensor] = module(batch.student, targets, batch.labels, weights, batch.rows, batch.samples)
        return outputs

    def _targets(self, batch: Batch) -> dict[str, Any]:
        """Return what the teacher says of a batch; whether it is finite is looked at later."""
        targets = self.parts.source.targets(batch)
        for name, rows in self.parts.source.sums().items():
            name = f"the teacher's {name!r}"
            self._rows[name] = torch.cat([self._rows[name], rows]) if name in self._rows else rows
        return targets

    def _extended(
        self, extender: Extender, batch: Batch, targets: Mapping[str, Any], progress: float
    ) -> tuple[Batch, Mapping[str, Any]]:
        """Return the batch with further images behind it, and what the teacher says of all."""
        parts = self.parts
        draws = parts.views.draws(batch.canvas, batch.samples, self._step, self._micro_batch).apart("extension")
        batch, targets, counts = extender(
            batch,
            targets,
            self._targets,
            parts.stage.all_terms(),
            progress,
            draws,
            parts.accelerator.autocast,
        )
        parts.meter.count(counts)
        return batch, targets

    def told(self, progress: float) -> dict[str, float]:
        """Return the means of the terms and agreements since the last call, over all processes, as the log names them.

        Args:
            progress: How much of the stage was done at the last step.
        """
        parts, terms = self.parts, self.parts.stage.all_terms()
        means = parts.meter.drain()
        if means is None:
            return {}
        # One reduction and one read of the device for all of them.
        values = parts.accelerator.reduce(means, "mean").tolist()
        names = [term.name for term in terms]
        names += [f"boundary_agreement/{term.layer}" for term in terms if term.objective.boundary]
        told = dict(zip(names, values, strict=True))
        told.update({f"weight/{term.name}": term.weight_at(progress) for term in terms if term.changes})
        extension, counts = parts.stage.stage.extension, parts.meter.drain_counts()
        if extension is not None and counts is not None:
            told.update(extension.summary(parts.accelerator.reduce(counts, "sum").tolist()))
        return told
