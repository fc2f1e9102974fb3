"""SuitedArguments: optimiser and learning rate that suit a student, where the training arguments leave them open.

Those for random weights with batch normalisation were chosen by `benchmarks/settings_search.py`, and docs/results.md
tells on what; the others are what is usual.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import SchedulerType
from transformers.training_args import OptimizerNames

from hf_abkd.models.start import Start
from hf_abkd.stages.arguments import OPEN_ARGUMENTS, DistillationArguments
from hf_abkd.stages.stage import Stage

# Images per step that the learning rates below are for; with more or fewer they follow the square root, up to so many.
_BATCH_SIZE, _MOST_IMAGES = 64, 1024

# The learning rate of AdamW, by whether the student was trained before and is normalised by batches.
_RATES: Mapping[Start, float] = {
    Start(trained=False, batch_norm=True): 5e-3,
    Start(trained=False, batch_norm=False): 1e-3,
    Start(trained=True, batch_norm=True): 2e-3,
    Start(trained=True, batch_norm=False): 1e-4,
}
# Without normalisation by batches the first steps at the full rate may ruin a student.
_WARMUP: Mapping[bool, float] = {True: 0.0, False: 0.05}


@dataclass(frozen=True)
class SuitedArguments:
    """The training settings that suit a student, for whatever the arguments of its training leave open.

    AdamW for all of them: its steps do not depend on the size of the loss, which for boundaries changes with the
    layers that are paired. A learning rate that was given was chosen with the defaults of transformers in mind: what is
    left open beside it is theirs.

    Args:
        start: What the student starts from.
        by_hand: Whether a user gave the trainer an optimiser, or its class and settings: what is left open beside it
            has the values of transformers.

    Example:
        >>> from hf_abkd import DistillationArguments
        >>> from hf_abkd.models.start import Start
        >>> from hf_abkd.stages.suited_arguments import SuitedArguments
        >>> args = DistillationArguments(output_dir="out", per_device_train_batch_size=32)
        >>> suited = SuitedArguments(Start(trained=False, batch_norm=True)).filled(args)
        >>> suited.learning_rate, suited.lr_scheduler_type.value
        (0.00354, 'cosine')
    """

    start: Start
    by_hand: bool = False

    def filled(self, args: DistillationArguments, stage: Stage | None = None) -> DistillationArguments:
        """Fill in what arguments leave open, in place, and return them.

        Args:
            args: The arguments of a run or of one of its stages.
            stage: The stage, whose own optimiser and suggestions count.

        Raises:
            ValueError: If the learning rate is left open for an optimiser for which none is known.
        """
        suited = {**self._suited(args, stage), **({} if stage is None else stage.suggested)}
        is_open = {name for name in OPEN_ARGUMENTS if getattr(args, name) is None}
        if args.lr_scheduler_type is None and args.lr_milestones is None:
            # Milestones and their factor go with the kind of schedule.
            is_open |= {"lr_milestones", "lr_gamma"}
        for name, value in {**OPEN_ARGUMENTS, **suited}.items():
            if name in is_open:
                setattr(args, name, value)
        args.optim, args.lr_scheduler_type = OptimizerNames(args.optim), SchedulerType(args.lr_scheduler_type)
        return args

    def _suited(self, args: DistillationArguments, stage: Stage | None) -> Mapping[str, Any]:
        """Return what suits the student, of what is known of the optimiser of a stage."""
        if self.by_hand or args.learning_rate is not None:
            return {}
        if stage is not None and stage.optimizer is not None:
            made_of, settings = stage.optimizer
            rate = {} if "lr" in settings else {"learning_rate": self._rate(made_of.__name__, args)}
            return {"lr_scheduler_type": "cosine", **rate}
        name = OptimizerNames(OPEN_ARGUMENTS["optim"] if args.optim is None else args.optim).value
        return {
            "lr_scheduler_type": "cosine",
            "warmup_steps": _WARMUP[self.start.batch_norm],
            "learning_rate": self._rate(name, args),
            "weight_decay": 0.05,
        }

    def _rate(self, optimizer: str, args: DistillationArguments) -> float:
        """Return the learning rate for the images of a step.

        Raises:
            ValueError: If none is known for the optimiser.
        """
        if not optimizer.lower().startswith("adam"):
            raise ValueError(f"no learning rate is known that suits the optimiser {optimizer}: give --learning_rate")
        images = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        return float(f"{_RATES[self.start] * math.sqrt(min(images, _MOST_IMAGES) / _BATCH_SIZE):.3g}")

    def reason(self, args: DistillationArguments) -> str:
        """Return why the settings of a run were chosen, in a sentence; empty if it left nothing open.

        Args:
            args: The arguments of the run, as they were given.
        """
        if all(getattr(args, name) is not None for name in OPEN_ARGUMENTS):
            return ""
        if self.by_hand or args.learning_rate is not None:
            return "as given; what was left open is as in transformers, or as the stage suggests"
        return f"chosen for a student with {self.start}; a flag or argument sets another value"
