"""Whether the steps of a run change a weight."""

from __future__ import annotations

from collections.abc import Iterator

from hf_abkd.cli.doctor.findings import Finding
from hf_abkd.cli.doctor.subject import Subject


def check_learning_rate(subject: Subject) -> Iterator[Finding]:
    """Whether the steps of each stage change a weight."""
    stages = subject.trainer.stages
    rates = [subject.arguments(stage).learning_rate or 0.0 for stage in stages]
    for stage, rate in zip(stages, rates, strict=True):
        if not rate > 0:
            message = f"{subject.label(stage)}: the learning rate is {rate:g}: no weight changes"
            yield Finding("error", "learning rate", message, "Give a --learning_rate above 0.")
    if all(rate > 0 for rate in rates):
        yield Finding("ok", "learning rate", " and ".join(dict.fromkeys(f"{rate:g}" for rate in rates)))
