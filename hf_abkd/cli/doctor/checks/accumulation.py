"""Whether two half batches give the gradient of the whole one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hf_abkd.cli.doctor.findings import Finding
from hf_abkd.cli.doctor.subject import Subject, weights_of
from hf_abkd.models.kept_state import evaluating
from hf_abkd.training.terms.distiller import Distiller
from hf_abkd.training.terms.run_stage import RunStage
from hf_abkd.training.terms.run_term import RunTerm

# Sums in another order differ by 1e-6, TF32 by 1e-3; a sum in the place of a mean differs by 1.
_TOLERANCE = 0.01


def check_accumulation(subject: Subject) -> Iterator[Finding]:
    """Whether two half batches give the gradient of the whole one."""
    for stage in subject.trainer.stages:
        where = subject.label(stage)
        difference, odd = _difference(subject, stage)
        if difference <= _TOLERANCE:
            message = f"{where}: two half batches give the gradient of the whole one up to {difference:.1g}"
            yield Finding("ok", "accumulation", f"{message} (allowed: {_TOLERANCE:g})")
            continue
        names = ", ".join(repr(term.name) for term in odd) or "a term"
        message = f"{where}: two half batches give another gradient than the whole one, by {difference:.0%}: {names} "
        if odd and all(not term.objective.per_sample for term in odd):
            remedy = "Accumulation and several processes change what is trained: prefer one large batch."
            yield Finding("note", "accumulation", f"{message} couples the samples of a batch by definition", remedy)
        else:
            remedy = "Divide it by the number of samples; if it couples them by definition, set `per_sample = False`."
            yield Finding("error", "accumulation", f"{message} is not a mean over the samples", remedy)


def _difference(subject: Subject, stage: RunStage) -> tuple[float, list[RunTerm]]:
    """Return by how much the gradients differ, as a share of the larger one, and the terms whose values differ."""
    terms, weights, halves = stage.terms, weights_of(stage), subject.batches
    with subject.stage(stage) as distiller, evaluating(distiller):
        # An image without a label stands for one of the first class: halves with other numbers of labels differ.
        labels = [half.labels.clamp(min=0) for half in halves if half.labels is not None]
        samples = [half.samples for half in halves if half.samples is not None]
        parts = [
            (
                half.student,
                subject.targets(stage, half),
                labels[number] if labels else None,
                samples[number] if samples else None,
            )
            for number, half in enumerate(halves)
        ]
        whole = (
            _joined([part[0] for part in parts]),
            _joined([part[1] for part in parts]),
            torch.cat(labels) if labels else None,
            torch.cat(samples) if samples else None,
        )
        gradient, values = _gradient(subject, distiller, weights, *whole)
        of_halves = [_gradient(subject, distiller, weights, *part) for part in parts]
    difference = _relative(gradient, torch.stack([half_gradient for half_gradient, _ in of_halves]).mean(0))
    means = torch.stack([half_values for _, half_values in of_halves]).mean(0)
    odd = [term for term, one, two in zip(terms, values, means, strict=True) if _relative(one, two) > _TOLERANCE]
    return difference, odd


def _gradient(
    subject: Subject,
    distiller: Distiller,
    weights: Sequence[float],
    inputs: Mapping[str, Any],
    targets: Mapping[str, Tensor],
    labels: Tensor | None,
    samples: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return the gradient of the loss as one vector (P,), and the values of the terms (T,)."""
    trainable = [parameter for parameter in distiller.parameters() if parameter.requires_grad]
    values = subject.term_values(distiller, inputs, targets, labels, samples)
    loss = (values * torch.tensor(weights).to(values.device)).sum()
    return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, trainable)]), values.detach()


def _joined(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return batches as one: tensors with the samples in their first dimension, end to end."""
    return {
        key: torch.cat([part[key] for part in parts]) if isinstance(value, Tensor) else value
        for key, value in parts[0].items()
    }


def _relative(one: Tensor, other: Tensor) -> float:
    """Return the norm of the difference as a share of the larger norm."""
    larger = torch.maximum(one.norm(), other.norm()).item()
    return (one - other).norm().item() / larger if larger else 0.0
