"""Recipe: the optimiser and the learning rate that suit a student, where the training arguments leave them open.

The values were chosen by `benchmarks/recipe_search.py`; docs/results.md tells on what.
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

# Images per step that the learning rates below are for.
_BATCH_SIZE = 64
# Up to this many times as many, the learning rate grows with them.
_MOST_BATCHES = 4
_SCHEDULE = ("lr_scheduler_type", "lr_milestones", "warmup_steps")

#: What suits each kind of optimiser, by whether the student was trained before.
_SETTINGS: Mapping[tuple[str, bool], Mapping[str, Any]] = {
    ("sgd", False): {
        "optim": "sgd",
        "optim_args": "momentum=0.9,nesterov=True",
        "learning_rate": 0.1,
        "weight_decay": 5e-4,
        "decay_norm_and_bias": True,
        "max_grad_norm": 0.0,
    },
    ("sgd", True): {
        "optim": "sgd",
        "optim_args": "momentum=0.9,nesterov=True",
        "learning_rate": 0.01,
        "weight_decay": 5e-4,
        "decay_norm_and_bias": True,
        "max_grad_norm": 0.0,
    },
    ("adam", False): {"learning_rate": 1e-3, "weight_decay": 0.05, "max_grad_norm": 1.0, "warmup_steps": 0.05},
    ("adam", True): {"learning_rate": 1e-4, "weight_decay": 0.01, "max_grad_norm": 1.0, "warmup_steps": 0.05},
}


@dataclass(frozen=True)
class Recipe:
    """The training settings that suit a student, for whatever the arguments of its training leave open.

    Normalisation by batches makes the size of the weights, and with it the optimiser, another question than other
    nets: such students are trained by SGD from random weights, and all others by AdamW. A learning rate that was given
    was chosen with the optimiser of transformers in mind: the optimiser is then that of transformers, too.

    Args:
        start: What the student starts from.
        by_hand: Whether a user gave the trainer an optimiser, or its class and settings: what is left open beside it
            has the values of transformers.

    Example:
        >>> from hf_abkd import DistillationArguments
        >>> from hf_abkd.models.start import Start
        >>> from hf_abkd.stages.recipe import Recipe
        >>> args = DistillationArguments(output_dir="out", per_device_train_batch_size=32)
        >>> suited = Recipe(Start(trained=False, batch_norm=True)).filled(args)
        >>> suited.optim.value, suited.learning_rate
        ('sgd', 0.05)
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
        suited = {**self._optimizer_settings(args, stage), **({} if stage is None else stage.suggested)}
        is_open = {name for name in OPEN_ARGUMENTS if getattr(args, name) is None}
        if args.lr_scheduler_type is None and args.lr_milestones is None:
            # Milestones and their factor go with the kind of schedule.
            is_open |= {"lr_milestones", "lr_gamma"}
        for name, value in {**OPEN_ARGUMENTS, **suited}.items():
            if name in is_open:
                setattr(args, name, value)
        args.optim, args.lr_scheduler_type = OptimizerNames(args.optim), SchedulerType(args.lr_scheduler_type)
        return args

    def _optimizer_settings(self, args: DistillationArguments, stage: Stage | None) -> Mapping[str, Any]:
        """Return what suits the optimiser of a stage."""
        if self.by_hand or args.learning_rate is not None:
            return {}
        if stage is not None and stage.optimizer is not None:
            made_of, settings = stage.optimizer
            rate = {} if "lr" in settings else {"learning_rate": self._rate(_kind_of(made_of.__name__), args)}
            return {"lr_scheduler_type": "cosine", **rate}
        if args.optim is not None:
            kind = _kind_of(OptimizerNames(args.optim).value)
        else:
            kind = "sgd" if self.start.batch_norm and not self.start.trained else "adam"
        settings = _SETTINGS[kind, self.start.trained]
        return {"lr_scheduler_type": "cosine", **settings, "learning_rate": self._rate(kind, args)}

    def _rate(self, kind: str, args: DistillationArguments) -> float:
        """Return the learning rate for the images of a step."""
        times = args.train_batch_size * args.gradient_accumulation_steps * args.world_size / _BATCH_SIZE
        times = min(times, _MOST_BATCHES)
        rate: float = _SETTINGS[kind, self.start.trained]["learning_rate"]
        return float(f"{rate * (times if kind == 'sgd' else math.sqrt(times)):.3g}")

    def reason(self, args: DistillationArguments) -> str:
        """Return why the settings of a run were chosen, in a sentence; empty if it left nothing open.

        Args:
            args: The arguments of the run, as they were given.
        """
        names = [name for name in OPEN_ARGUMENTS if getattr(args, name) is None]
        if not names or (args.learning_rate is not None and set(_SCHEDULE).isdisjoint(names)):
            return ""
        return f"chosen for a student with {self.start}; a flag or argument sets another value"


def _kind_of(name: str) -> str:
    """Return by which of the known optimisers one is counted.

    Raises:
        ValueError: If it is none of them.
    """
    plain = name.lower()
    for kind in ("sgd", "adam"):
        if plain.startswith(kind):
            return kind
    raise ValueError(f"no learning rate is known that suits the optimiser {name}: give one, --learning_rate")
