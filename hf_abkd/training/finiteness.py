"""Whether everything in a stage stays finite, and what was the first that did not: stage, step, layer, samples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from hf_abkd.layers.sums import row_sums, sums
from hf_abkd.training.progress import Span

# How many batches are looked at together where a look waits for the device.
TOGETHER = 50
_NAMED = 8
_HELP = (
    "The run has stopped; the checkpoints that are there are from before. Look at the images that are named, and where "
    "the teacher is, at its weights and precision (teacher_precision='fp32'); otherwise lower learning_rate, warm up, "
    "or clip by max_grad_norm."
)


@dataclass(frozen=True)
class Watched:
    """What was seen of one batch, as sums that are not finite where a value was not.

    Args:
        step: The step of the run, from 1.
        samples: The ids of its images, (N,), or None.
        rows: By name, of each image (N,) or of all together (1,): the images, the teacher's tensors, the logits.
        layers: Of each captured tensor of the student, (P,).
        terms: The terms' values, (T,).
    """

    step: int
    samples: Tensor | None
    rows: Mapping[str, Tensor]
    layers: Tensor
    terms: Tensor

    def all(self) -> Iterable[Tensor]:
        """Return all of the sums."""
        return (*self.rows.values(), self.layers, self.terms)


class FiniteWatch:
    """Looks after the tensors of a stage, and stops the run when one is not finite.

    Most numbers that are not finite show nowhere: transformers logs the mean of earlier losses in their place, and of a
    boundary they become the side below 0.

    Args:
        span: Where the stage lies in the run.
        terms: What its terms are called in messages.
        layers: The names of the student's captured tensors.
        accelerator: To ask the other processes.
    """

    def __init__(self, span: Span, terms: Sequence[str], layers: Sequence[str], accelerator: Accelerator) -> None:
        self._span, self._terms, self._layers = span, list(terms), list(layers)
        self._accelerator = accelerator
        self._kept: list[Watched] = []
        self._step = span.start
        # On a CPU of its own a process has the numbers anyway.
        self._alone = accelerator.num_processes == 1 and accelerator.device.type == "cpu"

    def add(
        self,
        step: int,
        outputs: Mapping[str, Tensor],
        rows: Mapping[str, Tensor],
        samples: Tensor | None,
    ) -> None:
        """Take in one batch.

        Args:
            step: The step of the run, from 1.
            outputs: What the module of the stage returned.
            rows: The sums of the images and of what the teacher said of them.
            samples: The ids of the images, (N,), or None.

        Raises:
            RuntimeError: If something is not finite, where looking costs nothing.
        """
        self._step = step
        shown = dict(rows)
        if "taught" in outputs:
            shown["the teacher's tensors"] = outputs["taught"]
        if "logits" in outputs:
            shown["the student's logits"] = row_sums(outputs["logits"])
        self._kept.append(Watched(step, samples, shown, outputs["layers"], outputs["terms"]))
        if self._alone or len(self._kept) >= TOGETHER:
            self.check()

    def check(self, module: nn.Module | None = None) -> None:
        """Look at all batches since the last look; call it in every process.

        Args:
            module: What is trained, if its weights are to be looked at too: they are what is saved next.

        Raises:
            RuntimeError: If something is not finite; it names the first.
        """
        kept, self._kept = self._kept, []
        named = {} if module is None else {name: p for name, p in module.named_parameters() if p.requires_grad}
        weights = sums(list(named.values())) if named else torch.zeros(0, device=self._accelerator.device)
        seen = torch.cat([weights, *(tensor.reshape(-1).float() for one in kept for tensor in one.all())])
        wrong = self._accelerator.reduce((~seen.isfinite()).sum().float(), "sum")
        if not wrong.item():
            return
        first = next((one for one in kept if not all(bool(part.isfinite().all()) for part in one.all())), None)
        found: list[tuple[int, str]] = []
        if first is not None:
            found = [(first.step, self._told(first))]
        elif not bool(weights.isfinite().all()):
            broken = [name for name, fine in zip(named, weights.isfinite().tolist(), strict=True) if not fine]
            found = [(self._step, f"after it {_few(broken)} of the trained weights are not finite")]
        if self._accelerator.num_processes > 1:
            found = gather_object(found)
        step, told = min(found)
        raise RuntimeError(f"{self._span.title or 'training'}, step {step}: {told}. {_HELP}")

    def _told(self, seen: Watched) -> str:
        """Return what was not finite in a batch."""
        parts = []
        for name, rows in seen.rows.items():
            broken = (~rows.isfinite()).nonzero()[:, 0].tolist()
            if broken:
                parts.append(f"{name} are not finite{_whose(broken, seen.samples, len(rows))}")
        layers = [name for name, fine in zip(self._layers, seen.layers.isfinite().tolist(), strict=True) if not fine]
        if layers:
            parts.append(f"the student is not finite in {_few(layers)}")
        values = dict(zip(self._terms, seen.terms.tolist(), strict=True))
        if terms := [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]:
            parts.append("of the terms, " + ", ".join(terms[:_NAMED]))
        return "; ".join(parts)


def check_teacher(shown: Mapping[str, Tensor]) -> None:
    """Check that the teacher is finite on a batch that is looked at before the first step.

    Args:
        shown: The sums of each of its tensors, by name.

    Raises:
        RuntimeError: If it is not.
    """
    if broken := [name for name, rows in shown.items() if not bool(rows.isfinite().all())]:
        raise RuntimeError(
            f"the teacher is not finite in {_few(broken)} on the first images of the training set, so nothing can be "
            "learnt from it. Look at its weights, its precision (teacher_precision='fp32') and these images."
        )


def _whose(broken: Sequence[int], samples: Tensor | None, count: int) -> str:
    """Return which images of a batch are meant, as text."""
    if len(broken) == count > 1:
        return " for any image of the batch"
    known = [] if samples is None else samples.tolist()
    ids = [str(known[row]) if row < len(known) else f"row {row} of the batch" for row in broken[:_NAMED]]
    more = f" and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
    return f" for the samples {', '.join(ids)}{more}" if known else f" in {', '.join(ids)}{more}"


def _few(names: Sequence[str]) -> str:
    """Return some names as text, the first ones of many."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(repr, names[:_NAMED])) + more
