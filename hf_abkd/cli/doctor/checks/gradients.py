"""Whether every tensor that a stage trains gets a gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch

from hf_abkd.cli.doctor.findings import Finding
from hf_abkd.cli.doctor.subject import Subject
from hf_abkd.stages.stage import frozen_parts
from hf_abkd.training.terms.distiller import Distiller
from hf_abkd.training.terms.run_stage import RunStage
from hf_abkd.training.wiring.reach import REMEDY, few_reached
from hf_abkd.wording import listed


def check_gradients(subject: Subject) -> Iterator[Finding]:
    """Whether every tensor that a stage trains gets a gradient, and which tensors no stage trains."""
    never = _trainable(subject)
    for stage in subject.trainer.stages:
        frozen = frozen_parts(subject.student, stage.stage.freeze)[1]
        wanted = _trainable(subject) - frozen
        where = subject.label(stage)
        with subject.stage(stage) as distiller:
            sizes = _gradient_sizes(subject, distiller, stage)
        reached = subject.students_own(sizes)
        never -= reached | frozen
        if wanted - reached:
            left_out = _named(subject, wanted - reached)
            if (few := few_reached(where, len(wanted & reached), len(wanted))) is not None:
                yield Finding("warning", "gradients", f"{few}: no term reaches {left_out}", REMEDY)
            else:
                message = f"{where}: no term reaches {len(wanted - reached)} of the student's {len(wanted)} tensors"
                yield Finding("note", "gradients", f"{message} ({left_out}), which are frozen in it")
        yield from _judged(subject, stage, sizes)
    if never:
        remedy = "Add a term that reaches them, or freeze them by name if that is meant."
        message = f"no stage trains {len(never)} tensors of the student: {_named(subject, never)}"
        yield Finding("warning", "gradients", message, remedy)


def _trainable(subject: Subject) -> set[str]:
    return {name for name, parameter in subject.student.named_parameters() if parameter.requires_grad}


def _named(subject: Subject, names: set[str]) -> str:
    """Return parameters of the student as text, in the order in which it has them."""
    return listed([name for name, _ in subject.student.named_parameters() if name in names], 4)


def _judged(subject: Subject, stage: RunStage, sizes: Mapping[str, float]) -> Iterator[Finding]:
    """Tell of gradients that are not finite or zero, or that there are none."""
    where = subject.label(stage)
    broken = [name for name, size in sizes.items() if not math.isfinite(size)]
    zero = [name for name, size in sizes.items() if size == 0]
    if broken:
        names = subject.described_parameters(broken, stage)
        yield Finding(
            "error",
            "gradients",
            f"{where}: not finite for {len(broken)} of {len(sizes)} tensors: {names}",
            "Look for NaN in the images or in the weights, and for a division by 0 or a root of 0 in an objective.",
        )
    if sizes and len(zero) == len(sizes):
        yield Finding(
            "error",
            "gradients",
            f"{where}: the gradient is zero in both batches for all of its {len(sizes)} tensors: nothing is learnt",
            "Look for weights of 0, for a student that is its teacher, and for outputs that are multiplied by 0.",
        )
    elif zero:
        names = subject.described_parameters(zero, stage)
        yield Finding(
            "warning",
            "gradients",
            f"{where}: zero in both batches for {len(zero)} of {len(sizes)} tensors: {names}",
            "They would not learn: look for a weight of 0, units that are off for every image, or a part whose "
            "output is multiplied by 0 or not used.",
        )
    if not broken and not zero:
        yield Finding("ok", "gradients", f"{where}: finite and not zero for all {len(sizes)} trainable tensors")


def _gradient_sizes(subject: Subject, distiller: Distiller, stage: RunStage) -> dict[str, float]:
    """Return the largest entry of each trainable tensor's gradient over both batches."""
    trainable = {name: parameter for name, parameter in distiller.named_parameters() if parameter.requires_grad}
    sizes = dict.fromkeys(trainable, 0.0)
    distiller.train()
    for batch in subject.batches:
        gradients = torch.autograd.grad(
            subject.loss(distiller, stage, batch), list(trainable.values()), allow_unused=True
        )
        for name, gradient in zip(trainable, gradients, strict=True):
            size = 0.0 if gradient is None else gradient.abs().max().item()
            # NaN is larger than nothing.
            sizes[name] = size if math.isnan(size) else max(sizes[name], size)
    return sizes
