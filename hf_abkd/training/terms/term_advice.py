"""What to do about the weights of a stage's terms, from the gradients that each has on the student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hf_abkd.training.terms.term_gradients import Dominance, dominating, ratios

# Rounding leaves a gradient of 2e-7 of the labels' where the student equals its teacher (measured, float32).
_ROUNDING = 1e-6
# Below this share of the largest gradient a term decides next to nothing.
_WEAK = 0.05


@dataclass(frozen=True)
class Advice:
    """What there is to say of the terms of a stage.

    Attributes:
        dominant: A term that outweighs all others, if there is one that it can be balanced against.
        messages: What to tell the user, a text for each finding; that of the dominant term first.
    """

    dominant: Dominance | None
    messages: list[str]


def advise(names: Sequence[str], norms: Sequence[float], weights: Sequence[float]) -> Advice:
    """Return what there is to say of terms that pull much harder, or much less, than the others.

    Args:
        names: The names of the terms.
        norms: Their gradient norms on the student, without weights.
        weights: Their weights.

    Raises:
        RuntimeError: If the gradient of a term is not finite.
    """
    dominant = dominating(names, norms, weights)
    # Without a gradient on all, or with one of rounding errors: no weight makes anything of it.
    largest = max(norms, default=0.0)
    silent = [
        name
        for name, norm, weight in zip(names, norms, weights, strict=True)
        if weight > 0 and norm <= _ROUNDING * largest
    ]
    if dominant is not None and dominant.runner_up in silent:
        dominant = None
    messages = [] if dominant is None else [dominant.message()]
    messages += [_of_silent(name) for name in silent]
    if dominant is None:
        messages += _of_weak(names, norms, weights, silent)
    return Advice(dominant, messages)


def _of_silent(name: str) -> str:
    return (
        f"the gradient of term {name!r} on the student is 0, but for rounding: it teaches nothing in these first "
        "steps, and no weight changes that. Is the student the teacher itself, is what the term reaches frozen, had "
        "none of these images the label that it needs, or has the student nothing left to learn of it? Else leave the "
        "term out."
    )


def _of_weak(
    names: Sequence[str], norms: Sequence[float], weights: Sequence[float], silent: Sequence[str]
) -> list[str]:
    """Return what is said of terms whose gradient is a small share of the largest."""
    found = ratios(norms, weights)
    strongest = names[max(range(len(found)), key=found.__getitem__)] if found else ""
    return [
        f"the gradient of term {name!r} on the student is {ratio:.2g} times that of {strongest!r}: in these first "
        f"steps it hardly counts. If it should, a weight of {weight / ratio:.3g} instead of {weight:.3g} makes the two "
        "equal; else leave it out, which saves its time."
        for name, ratio, weight in zip(names, found, weights, strict=True)
        if 0 < ratio < _WEAK and name not in silent
    ]
