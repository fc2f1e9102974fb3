"""Mean teacher: what teaches a run is the exponential moving average of the student's own weights.

Paper: Tarvainen and Valpola, NeurIPS 2017, https://huggingface.co/papers/1703.01780
What differs from the authors' code is told at `MeanTeacher`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from hf_abkd.layers.processes import taken_from_first
from hf_abkd.settings import number
from hf_abkd.teachers.live import LiveTeacher
from hf_abkd.teachers.live_source import AdaptingSource
from hf_abkd.teachers.speed.fast_copy import SpeedUps


@dataclass(frozen=True)
class MeanTeacher:
    """The moving average of the student as its teacher; give it to the trainer as `teacher`.

    The average begins as a copy of the student. After optimiser step t of the run each weight of it becomes
    d * average + (1 - d) * student with d = min(decay, 1 - 1 / (t + 1)): a plain mean of all students so far, until
    that one would look back further than the moving one. It goes on from stage to stage, and begins anew with each
    call of `train`.

    The running statistics of BatchNorm are averaged like weights, as they belong to them; whole numbers, such as the
    count of batches, are copied. With several processes they are those of the first, so that all are taught alike.
    Checkpoints hold the average, and a resumed run goes on with it; what is published is the student.
    `trainer.teacher.model.save_pretrained(folder)` keeps the average, and `trainer.evaluate_teacher()` measures it.

    Paper: Tarvainen and Valpola, NeurIPS 2017, https://huggingface.co/papers/1703.01780
    Differs from the authors' code: the average is evaluated in eval mode, without dropout and by its running
        statistics, and sees the student's view of each image; theirs is in training mode and sees a view of its own.
        They average no buffers, as their average gathers statistics itself. How student and average are compared is up
        to the terms of the stage; the paper uses the mean squared difference of the probabilities.

    Args:
        decay: How much of the average stays in each step, at least 0 and below 1.

    Raises:
        TypeError: If `decay` is no number.
        ValueError: If it is out of range.

    Example:
        >>> from hf_abkd import MeanTeacher
        >>> MeanTeacher(decay=0.99).at(1), MeanTeacher(decay=0.99).at(1000)
        (0.5, 0.99)
    """

    decay: float = 0.999

    def __post_init__(self) -> None:
        """Check the decay."""
        object.__setattr__(self, "decay", float(number("decay", self.decay, least=0, below=1)))

    def at(self, step: int) -> float:
        """Return how much of the average stays after a step, counted from 1."""
        return min(self.decay, 1 - 1 / (step + 1))


class MeanSource(AdaptingSource):
    """A moving average of the student's weights, which runs as it is.

    Args:
        settings: How it is averaged.
        teacher: A copy of the student.
    """

    of_student = True

    def __init__(self, settings: MeanTeacher, teacher: LiveTeacher) -> None:
        super().__init__(teacher, SpeedUps, is_taught=False)
        self.settings = settings

    def identify(self) -> dict[str, Any]:
        """Return how it is averaged: its weights are in checkpoints, and those it began with in none."""
        name = repr(self.settings)
        return {"class": name, "name_or_path": "", "fingerprint": name}

    def begin_with(self, student: nn.Module) -> None:
        """Become a copy of the student; with several processes of that of the first, as the student itself will."""
        with torch.no_grad():
            for mean, new in self._pairs(student):
                mean.copy_(new)
        taken_from_first(*_tensors(self.live.model))
        self._renew()

    def follow(self, student: nn.Module, step: int) -> None:
        """Move towards the student, after an optimiser step."""
        pairs = list(self._pairs(student))
        averaged = [(mean, new) for mean, new in pairs if mean.is_floating_point()]
        with torch.no_grad():
            average = get_ema_multi_avg_fn(self.settings.at(step))  # type: ignore[no-untyped-call]
            average([mean for mean, _ in averaged], [new.detach() for _, new in averaged], 0)
            for mean, new in pairs:
                if not mean.is_floating_point():
                    mean.copy_(new)
        # Each process has seen other images, and has other statistics.
        taken_from_first(*self.live.model.buffers())
        self._renew()

    def _pairs(self, student: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(_tensors(self.live.model), _tensors(student), strict=True)

    def _renew(self) -> None:
        # LeViT keeps in eval mode what it once computed from its weights; only a change to training mode drops it.
        self.live.model.train().eval()


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()
