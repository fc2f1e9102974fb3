"""Whether a student does better than always giving the commonest answer, told when its run is over."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.trainer_utils import EvalLoopOutput

from hf_abkd.models.tasks.task import Task

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Chance:
    """What guessing gives on an evaluation set: a share in [0, 1], of how many samples."""

    share: float
    samples: int

    @property
    def bound(self) -> float:
        """What a student that guesses does not exceed, but for the luck of one time in six."""
        return self.share + math.sqrt(self.share * (1 - self.share) / self.samples)


class Guessing:
    """Looks at the evaluations of a student, and warns if the last one is no better than guessing.

    Args:
        task: What the student does.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self._chances: dict[str, _Chance] = {}

    def see(self, output: EvalLoopOutput, prefix: str) -> None:
        """Note what guessing gives where the student was evaluated; nothing of data without labels.

        Args:
            output: The evaluation.
            prefix: That of its metrics.
        """
        if f"{prefix}_{self.task.score}" in (output.metrics or {}) and output.label_ids is not None:
            labels = torch.as_tensor(output.label_ids)
            self._chances[prefix] = _Chance(self.task.chance(labels), len(labels))

    def warn(self, log: Sequence[Mapping[str, Any]], step: int | None = None) -> None:
        """Warn of a student that guesses at the end of its run.

        Args:
            log: The log of the run.
            step: The step whose weights it ends with; None for the last.
        """
        for prefix, chance in self._chances.items():
            name = f"{prefix}_{self.task.score}"
            scores = [entry[name] for entry in log if name in entry and (step is None or entry["step"] == step)]
            if scores and scores[-1] <= chance.bound:
                logger.warning(
                    "THE STUDENT GUESSES: its %s is %.3f (%d samples), and always giving the commonest answer gives "
                    "%.3f. Look at the learning rate, the length of the run and the weights of the terms; `hf-abkd "
                    "doctor` with the same flags looks at models, labels and images.",
                    name,
                    scores[-1],
                    chance.samples,
                    chance.share,
                )
