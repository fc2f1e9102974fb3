"""The weights of the terms of a stage against each other: measured in its first steps, named, and balanced if asked."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from hf_abkd.data.batch import Batch
from hf_abkd.training.terms.distiller import Distiller
from hf_abkd.training.terms.run_term import RunTerm
from hf_abkd.training.terms.term_advice import advise
from hf_abkd.training.terms.term_gradients import TermGradients, check_finite, gradient_norms, ratios

logger = logging.getLogger(__name__)


class TermBalance:
    """Measures how hard each term of a stage pulls on the student, and balances one that outweighs all others.

    Args:
        steps: In how many first steps of each stage; 0 measures nothing.
        balance: Whether to give a dominating term another weight, instead of a warning.
    """

    def __init__(self, steps: int, *, balance: bool) -> None:
        self.steps = steps
        self.balance = balance
        #: The factors that were found, by stage and in the order of its terms.
        self.factors: dict[int, list[float]] = {}
        self._stage = 0
        self._terms: Sequence[RunTerm] = ()
        self._measuring: TermGradients | None = None

    def start(self, stage: int, terms: Sequence[RunTerm], resumed: Mapping[str, Any] | None) -> None:
        """Begin a stage.

        Args:
            stage: Its index.
            terms: Its terms.
            resumed: What `state` returned when a checkpoint inside this stage was written; None at its beginning.
        """
        self._stage, self._terms = stage, terms
        self._measuring = TermGradients(self.steps) if self.steps and len(terms) > 1 else None
        if resumed is not None:
            self.factors = {int(index): factors for index, factors in resumed["factors"].items()}
            if resumed["measuring"] is None:
                self._measuring = None
            elif self._measuring is not None:
                self._measuring.load(resumed["measuring"])
        for term, factor in zip(terms, self.factors.get(stage, [1.0] * len(terms)), strict=True):
            term.balance = factor

    @property
    def is_measuring(self) -> bool:
        """Whether the next batch is measured."""
        return self._measuring is not None

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold to go on as if never stopped."""
        return {"factors": self.factors, "measuring": None if self._measuring is None else self._measuring.state()}

    def measure(
        self,
        distiller: Distiller,
        batch: Batch,
        targets: Mapping[str, Tensor],
        progress: float,
        accelerator: Accelerator,
    ) -> dict[str, float] | None:
        """Measure one batch; after the last measured one, warn or balance, and return what to log.

        Args:
            distiller: The module of the stage, neither wrapped nor compiled.
            batch: The first batch of a step.
            targets: What the teacher says of it.
            progress: How much of the stage is done.
            accelerator: For autocast, the loss scale, and the mean over processes.

        Raises:
            RuntimeError: If the gradient of a term is not finite.
        """
        if self._measuring is None:
            return None
        weights = [term.weight_at(progress) for term in self._terms]
        scaler = accelerator.scaler
        scale = None
        if scaler is not None:
            device = next(distiller.parameters()).device
            scale = scaler.get_scale() * torch.tensor([weight or 1.0 for weight in weights], device=device)
        with accelerator.autocast():
            norms = gradient_norms(distiller, batch.student, targets, batch.labels, scale, batch.rows, batch.samples)
        # Equal in all processes from here on: so are weights and checkpoints.
        norms = accelerator.reduce(norms, "mean")
        if scaler is not None and not torch.isfinite(norms).all():
            # The loss scale is still too large, and the trainer skips this step for the same reason.
            return None
        # Before a step is taken with it: the next loss would be of weights that are not numbers.
        check_finite([term.name for term in self._terms], norms.tolist())
        self._measuring.add(norms)
        if not self._measuring.done:
            return None
        found = self._measuring.mean().tolist()
        self._measuring = None
        names = [term.name for term in self._terms]
        advice = advise(names, found, weights)
        dominant, messages = advice.dominant, advice.messages
        if dominant is not None and self.balance:
            self._terms[names.index(dominant.name)].balance = 1 / dominant.ratio
            self.factors[self._stage] = [term.balance for term in self._terms]
            logger.info("weight of %r: %.4g, balanced", dominant.name, dominant.balancing_weight)
            messages = messages[1:]
        if accelerator.is_main_process:
            for message in messages:
                logger.warning("%s", message)
        compared = zip(names, ratios(found, weights), strict=True)
        return {f"gradient_ratio/{name}": ratio for name, ratio in compared if math.isfinite(ratio)}
