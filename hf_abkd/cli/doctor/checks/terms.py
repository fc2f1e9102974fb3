"""How hard each term pulls, compared with the others."""

from __future__ import annotations

from collections.abc import Iterator

from hf_abkd.cli.doctor.findings import Finding, Level
from hf_abkd.cli.doctor.subject import Subject, weights_of
from hf_abkd.training.terms.term_gradients import dominating, ratios


def check_terms(subject: Subject) -> Iterator[Finding]:
    """How hard each term pulls."""
    for stage in subject.trainer.stages:
        terms = stage.terms
        if len(terms) < 2:
            continue
        where = subject.label(stage)
        with subject.stage(stage) as distiller:
            norms = subject.term_gradients(distiller, stage, subject.batches[0])
        names, weights = [term.name for term in terms], weights_of(stage)
        if dominant := dominating(names, norms, weights):
            level: Level = "note" if subject.trainer.args.balance_terms else "warning"
            yield Finding(level, "terms", f"{where}: {dominant.message().rstrip('.')}")
            continue
        shares = [f"{name} {ratio:.2g}" for name, ratio in zip(names, ratios(norms, weights), strict=True)]
        message = f"{where}: gradient of each term as a multiple of the largest other one: {', '.join(shares)}"
        yield Finding("ok", "terms", message)
