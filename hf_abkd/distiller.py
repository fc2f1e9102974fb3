"""Distiller: student, connectors and terms in one forward pass; the module that Accelerate wraps.

Everything trainable runs inside this one forward: a connector used outside the wrapped module is not averaged across
processes, and autocast does not reach it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hf_abkd.capture import Capture, CapturePoint
from hf_abkd.objectives import boundary_agreement
from hf_abkd.outputs import logits_of
from hf_abkd.terms import LOGITS, Term


class Distiller(nn.Module):
    """A student and the terms of one stage.

    The teacher is not in here: what it says arrives as `targets`. Attach the hooks (`attach`) before the module is
    compiled or wrapped, and take them off (`detach`) when the stage is over.

    In training, a stage without a term on the student's logits runs the student up to the last tensor that a term
    reads, and gives no logits. Nothing behind it changes in such a stage: BatchNorm there does not move its
    statistics, and dropout draws no random numbers. A compiled student runs to its end all the same, as far as the
    compiler does not drop it, and these statistics do move.

    Args:
        student: The student model; it is called with the inputs as keyword arguments and returns logits.
        terms: The terms of the stage, with their connectors made.
        points: The tensor of the student that each term's `student` stands for, by that name.
        overwritten: Those of the points whose tensors a later operation overwrites in place.
        frozen: Modules kept in eval mode, so that their statistics stay as they are.
    """

    def __init__(
        self,
        student: nn.Module,
        terms: Sequence[Term],
        points: Mapping[str, CapturePoint],
        overwritten: Iterable[CapturePoint] = (),
        frozen: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__()
        self.student = student
        self.terms = tuple(terms)
        self.connectors = nn.ModuleList(terms)
        self.points = {term.student: points[term.student] for term in terms if term.student != LOGITS}
        #: Whether training needs the student's logits; evaluation always gives them.
        self.trains_logits = not terms or any(term.student == LOGITS for term in terms)
        self.capture = Capture(student, self.points.values(), overwritten)
        self._frozen = tuple(frozen)
        self.agreement_names = [f"boundary_agreement/{term.layer}" for term in terms if term.objective.boundary]

    def attach(self) -> Distiller:
        """Put the hooks on the student."""
        self.capture.attach()
        return self

    def detach(self) -> None:
        """Take the hooks off the student."""
        self.capture.detach()

    def train(self, mode: bool = True) -> Distiller:
        """Set the mode of student and connectors; frozen modules stay in eval mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def forward(
        self, inputs: Mapping[str, Any], targets: Mapping[str, Tensor], labels: Tensor | None, weights: Tensor
    ) -> dict[str, Tensor]:
        """Run the student and every term.

        Args:
            inputs: Keyword arguments of the student, without labels.
            targets: The teacher's tensors by the names that the terms use.
            labels: The labels of the batch, (N,), or None.
            weights: The weights of the terms, (T,).

        Returns:
            `loss` (), the weighted sum; `logits` (N, K), in training only if a term needs them; `terms` (T,), the
            values without weights, detached; `agreement` (N, B), per sample the boundary agreement of each of the B
            boundary terms, detached.
        """
        logits, values, agreements = self.run(inputs, targets, labels)
        stacked = torch.stack(values) if values else weights.new_zeros(0)
        result = {"loss": (weights * stacked).sum(), "terms": stacked.detach()}
        if logits is not None:
            result["logits"] = logits
        if agreements:
            result["agreement"] = torch.stack(agreements, dim=1)
        return result

    def run(
        self, inputs: Mapping[str, Any], targets: Mapping[str, Tensor], labels: Tensor | None
    ) -> tuple[Tensor | None, list[Tensor], list[Tensor]]:
        """Run the student and every term, and keep the terms apart; the arguments are those of `forward`.

        Returns:
            The logits (N, K), or None in training if no term needs them; per term its value (), without its weight,
            with its graph; per boundary term its agreement (N,), detached.
        """
        without = self.training and not self.trains_logits
        output, captured = self.capture.run(lambda: self.student(**inputs), stop=without)
        logits = None if without else logits_of(output, self.student, "student")
        tensors = {name: captured[point] for name, point in self.points.items()}
        if logits is not None:
            tensors[LOGITS] = logits
        values: list[Tensor] = []
        agreements: list[Tensor] = []
        for term in self.terms:
            student = term.adapt(tensors[term.student])
            if term.teacher is not None:
                target = term.view(targets[term.teacher])
            elif labels is not None:
                target = labels
            else:
                raise ValueError(f"term {term.name!r} needs labels, and the batch has none")
            values.append(term(student, target))
            if term.objective.boundary:
                with torch.no_grad():
                    agreements.append(boundary_agreement(student, target))
        return logits, values, agreements
