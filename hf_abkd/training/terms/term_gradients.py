"""How hard each term pulls on the student: gradient norms in the first steps, and the weight that balances a term."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hf_abkd.models.kept_state import leaving_no_trace
from hf_abkd.training.terms.distiller import Distiller


def gradient_norms(
    distiller: Distiller,
    inputs: Mapping[str, Any],
    targets: Mapping[str, Tensor],
    labels: Tensor | None,
    scale: Tensor | None = None,
    rows: Mapping[str, slice] | None = None,
    samples: Tensor | None = None,
) -> Tensor:
    """Return the norm of the gradient of every term, without its weight, on the student's trainable parameters.

    One forward pass in training mode and a backward pass per term. Nothing of it stays: gradients, buffers, modes and
    the random states of torch are as before, also after an exception. Call it before the forward pass of the step
    (two graphs at once would double the memory), under the autocast of training.

    Args:
        distiller: The distiller itself, neither wrapped nor compiled.
        inputs: Keyword arguments of the student, without labels.
        targets: The teacher's tensors by the names that the terms use.
        labels: The labels of the batch, (N,), or None.
        scale: What each term is multiplied by for its backward pass, (T,), positive; it is divided out again. In
            float16 small gradients would be rounded to 0 without the factor that training applies to them: the loss
            scale times the weight.
        rows: The groups of rows that terms may name.
        samples: The ids of the images, (N,), or None.

    Returns:
        The norms, (T,), float32, on the device of the student; 0 for a term that does not reach it, and not finite
        for one whose gradient is not.
    """
    parameters = [parameter for parameter in distiller.student.parameters() if parameter.requires_grad]
    with leaving_no_trace(distiller), torch.enable_grad():
        distiller.train()
        _, values, _ = distiller.run(inputs, targets, labels, rows, samples)
        norms = []
        for index, value in enumerate(values):
            gradients: Sequence[Tensor | None] = []
            # Each value by itself: as entries of one tensor, every term would get a gradient of 0 from every other,
            # which costs a backward pass and turns an overflow of one term into NaN of all.
            if value.requires_grad and parameters:
                gradients = torch.autograd.grad(
                    value,
                    parameters,
                    grad_outputs=None if scale is None else scale[index],
                    retain_graph=value is not values[-1],
                    allow_unused=True,
                )
            # Squares of half-precision gradients overflow.
            reached = [gradient.float() for gradient in gradients if gradient is not None]
            zero = torch.zeros((), device=value.device)
            norms.append(nn.utils.get_total_norm(reached) if reached else zero)
    stacked = torch.stack(norms)
    return stacked if scale is None else stacked / scale


class TermGradients:
    """The mean gradient norms of the terms over the first steps of a stage.

    Under float16 an overflow in the first steps is normal, and the trainer skips those steps: do not add their norms.

    Args:
        steps: How many steps are measured.

    Raises:
        ValueError: If `steps` is not positive.
    """

    def __init__(self, steps: int) -> None:
        if steps < 1:
            raise ValueError(f"steps must be positive, got {steps}")
        self.steps = steps
        self.count = 0
        self._sum: Tensor | None = None

    @property
    def done(self) -> bool:
        """Whether all steps were measured."""
        return self.count >= self.steps

    def add(self, norms: Tensor) -> None:
        """Add the norms of one step, (T,). It does not wait for the device."""
        self._sum = norms if self._sum is None else self._sum.to(norms.device) + norms
        self.count += 1

    def mean(self) -> Tensor:
        """Return the mean norm of each term, (T,), on the device; not finite if it was not in one of the steps.

        Raises:
            RuntimeError: If nothing was added.
        """
        if self._sum is None:
            raise RuntimeError("no gradient norms were added; call `add` in the first steps")
        return self._sum / self.count

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold to go on as if never stopped; Python's JSON keeps it exactly.

        One state serves all processes only if the norms that were added are equal on all of them.
        """
        return {"count": self.count, "sum": None if self._sum is None else self._sum.tolist()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.count = state["count"]
        self._sum = None if state["sum"] is None else torch.tensor(state["sum"])


def ratios(norms: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Return the weighted norm of each term as a multiple of the largest among the other terms.

    For two terms these are r and 1 / r. The ratio of a term without weight or gradient is 0. That of a term beside
    which all others are without is infinite: there is nothing to balance it against.

    Args:
        norms: The gradient norms of the terms, without weights; finite.
        weights: Their weights.
    """
    weighted = [norm * weight for norm, weight in zip(norms, weights, strict=True)]
    found = []
    for index, norm in enumerate(weighted):
        largest = max(weighted[:index] + weighted[index + 1 :], default=0.0)
        if largest == 0:
            found.append(math.inf if norm > 0 else 0.0)
        else:
            found.append(norm / largest)
    return found


def balancing_weight(weight: float, ratio: float) -> float:
    """Return the weight at which a term of this weight and ratio would have the ratio 1."""
    return weight / ratio


@dataclass(frozen=True)
class Dominance:
    """A term whose gradient on the student outweighs that of every other.

    Args:
        name: The term.
        runner_up: The term with the next largest weighted gradient.
        ratio: How many times the one is as large as the other.
        weight: The weight of the term.
        balancing_weight: The weight at which the two would be equal.
        shared_weights: The weights at which they would be equal, of the sum that theirs have.
    """

    name: str
    runner_up: str
    ratio: float
    weight: float
    balancing_weight: float
    shared_weights: tuple[float, float]

    def message(self) -> str:
        """Return the warning."""
        return (
            f"the gradient of term {self.name!r} on the student is {self.ratio:.3g} times as large as the next "
            f"largest, that of {self.runner_up!r}: in these first steps the other terms hardly count. If they should, "
            f"a weight of {self.balancing_weight:.3g} instead of {self.weight:.3g} balances the two, which "
            f"balance_terms=True (--balance_terms) sets; weights of {self.shared_weights[0]:.2g} and "
            f"{self.shared_weights[1]:.2g} do so with the same sum."
        )


def check_finite(names: Sequence[str], norms: Sequence[float]) -> None:
    """Check the gradient norms of terms.

    Raises:
        RuntimeError: If that of a term is not finite.
    """
    if broken := {name: norm for name, norm in zip(names, norms, strict=True) if not math.isfinite(norm)}:
        raise RuntimeError(
            f"the gradient on the student is not finite for the terms {broken}, and no weight would repair that. Look "
            "for a division by 0, a logarithm or root of 0 in their objectives, and for values that are not finite in "
            "the data set or in what the teacher says of it."
        )


def dominating(
    names: Sequence[str], norms: Sequence[float], weights: Sequence[float], threshold: float = 10.0
) -> Dominance | None:
    """Return the term whose weighted gradient is more than `threshold` times that of every other, if there is one.

    Args:
        names: The names of the terms.
        norms: Their gradient norms, without weights.
        weights: Their weights.
        threshold: The ratio that is still accepted, at least 1.

    Raises:
        RuntimeError: If the gradient of a term is not finite.
        ValueError: If the threshold is below 1.
    """
    if not threshold >= 1:
        raise ValueError(f"threshold must be at least 1, got {threshold}")
    check_finite(names, norms)
    found = ratios(norms, weights)
    first = max(range(len(found)), key=found.__getitem__)
    if not threshold < found[first] < math.inf:
        return None
    second = max((other for other in range(len(found)) if other != first), key=lambda other: found[other])
    weight, ratio = weights[first], found[first]
    total = weight + weights[second]
    lighter = total / (1 + ratio * weights[second] / weight)
    balanced = balancing_weight(weight, ratio)
    return Dominance(names[first], names[second], ratio, weight, balanced, (lighter, total - lighter))
