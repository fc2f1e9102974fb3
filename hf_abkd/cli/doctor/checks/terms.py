"""How hard each term pulls, compared with the others."""

from __future__ import annotations

from collections.abc import Iterator

from hf_abkd.cli.doctor.findings import Finding
from hf_abkd.cli.doctor.subject import Subject, weights_of
from hf_abkd.training.terms.term_advice import Advice, advise
from hf_abkd.training.terms.term_gradients import ratios


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
        advice = advise(names, norms, weights)
        balances = subject.trainer.args.balance_terms
        for index, message in enumerate(advice.messages):
            balanced = balances and advice.dominant is not None and index == 0
            remedy = "" if balanced or index else _flag(subject, advice)
            yield Finding("note" if balanced else "warning", "terms", f"{where}: {message.rstrip('.')}", remedy)
        if not advice.messages:
            shares = [f"{name} {ratio:.2g}" for name, ratio in zip(names, ratios(norms, weights), strict=True)]
            message = f"{where}: gradient of each term as a multiple of the largest other one: {', '.join(shares)}"
            yield Finding("ok", "terms", message)


def _flag(subject: Subject, advice: Advice) -> str:
    """Return the flag that balances KD with the labels, where flags made the run."""
    dominant = advice.dominant
    if subject.flags is None or dominant is None:
        return ""
    shares = dict(zip((dominant.name, dominant.runner_up), dominant.shared_weights, strict=True))
    if set(shares) != {"knowledge_distillation", "cross_entropy"}:
        return ""
    return f"From the command line: --kd_weight {shares['knowledge_distillation']:.2g}."
