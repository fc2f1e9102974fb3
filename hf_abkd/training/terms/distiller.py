"""Distiller: student and terms, with their connectors, in one forward pass; the module that Accelerate wraps.

Everything trainable runs inside this one forward: a connector used outside the wrapped module is not averaged across
processes, and autocast does not reach it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from hf_abkd.layers.capture import Capture, CapturePoint
from hf_abkd.layers.sums import sums
from hf_abkd.models.lent_inputs import refuse_changes, versions
from hf_abkd.models.outputs import LOGITS
from hf_abkd.models.tasks.image_classification import IMAGE_CLASSIFICATION
from hf_abkd.models.tasks.task import Task
from hf_abkd.stages.term import Names
from hf_abkd.training.terms.run_term import RunTerm, Tensors

# The groups of rows that objectives about domains compare.
DOMAINS = ("source", "target")


@dataclass(frozen=True)
class BatchFacts:
    """What terms may need of a batch beside tensors of the models.

    Args:
        count: How many images the batch has.
        labels: Their labels, (N,), or None.
        rows: The groups of rows that terms may name.
        samples: The ids of the images, (N,), or None.
    """

    count: int
    labels: Tensor | None = None
    rows: Mapping[str, slice] | None = None
    samples: Tensor | None = None


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
        further: Tensors of the student that are captured for others.
        logits: Whether the logits are needed by others.
        task: What the student does, which says where its logits are.
        apart: Whether the loss is also told in two parts, that of the terms that compare with labels alone and that of
            the others.
    """

    def __init__(
        self,
        student: nn.Module,
        terms: Sequence[RunTerm],
        points: Mapping[str, CapturePoint],
        overwritten: Iterable[CapturePoint] = (),
        frozen: Sequence[nn.Module] = (),
        further: Iterable[CapturePoint] = (),
        logits: bool = False,
        task: Task = IMAGE_CLASSIFICATION,
        apart: bool = False,
    ) -> None:
        super().__init__()
        self.student = student
        self.task = task
        self.apart = apart
        # A module list, so that connectors are trained, moved and averaged with the student.
        self.terms = cast("Sequence[RunTerm]", nn.ModuleList(terms))
        self.points = {name: points[name] for term in terms for name in term.student_names if name != LOGITS}
        #: Whether training needs the student's logits; evaluation always gives them.
        self.trains_logits = logits or not terms or any(LOGITS in term.student_names for term in terms)
        self.capture = Capture(student, [*self.points.values(), *further], overwritten)
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
        self,
        inputs: Mapping[str, Any],
        targets: Mapping[str, Tensor],
        labels: Tensor | None,
        weights: Tensor,
        rows: Mapping[str, slice] | None = None,
        samples: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Run the student and every term.

        Args:
            inputs: Keyword arguments of the student, without labels.
            targets: The teacher's tensors by the names that the terms use.
            labels: The labels of the batch, (N,), or None.
            weights: The weights of the terms, (T,).
            rows: The groups of rows that terms may name (see `hf_abkd.data.batch.Batch`). None, for a batch of one
                kind, compares all rows; in training a term that names a group is then refused.
            samples: The ids of the images, (N,), or None.

        Returns:
            `loss` (), the weighted sum; `logits` (N, K), in training only if a term needs them; `terms` (T,), the
            values without weights, detached; `agreement` (N, B), per sample the boundary agreement of each of the B
            boundary terms, detached; with `rows` the means (1, B), as terms then compare rows of different numbers; in
            training `layers` (P,), the sums of the P tensors in `points`, detached. With `apart` in training also
            `task` () and `distillation` (), whose sum is the loss.
        """
        logits, captured = self.observe(inputs)
        facts = BatchFacts(len(next(iter(inputs.values()))), labels, rows, samples)
        values, agreements = self.compare(logits, captured, targets, facts)
        stacked = torch.stack(values) if values else weights.new_zeros(0)
        result = {"loss": (weights * stacked).sum(), "terms": stacked.detach()}
        if self.training and self.apart:
            result |= self._parts(values, weights)
            result["loss"] = result["task"] + result["distillation"]
        if self.training:
            seen = [captured[point] for point in self.points.values()]
            result["layers"] = sums(seen) if seen else weights.new_zeros(0)
        if logits is not None:
            result["logits"] = logits
        if agreements:
            shown = agreements if rows is None else [agreement.mean(0, keepdim=True) for agreement in agreements]
            result["agreement"] = torch.stack(shown, dim=1)
        return result

    def _parts(self, values: Sequence[Tensor], weights: Tensor) -> dict[str, Tensor]:
        """Return the two parts of the loss: as entries of one tensor, each would get a gradient from the other."""
        weighted = list(zip(self.terms, weights, values, strict=True))
        return {
            name: torch.stack([weight * value for term, weight, value in weighted if term.is_of_task == of_task]).sum()
            for name, of_task in (("task", True), ("distillation", False))
        }

    def run(
        self,
        inputs: Mapping[str, Any],
        targets: Mapping[str, Tensor],
        labels: Tensor | None,
        rows: Mapping[str, slice] | None = None,
        samples: Tensor | None = None,
    ) -> tuple[Tensor | None, list[Tensor], list[Tensor]]:
        """Run the student and every term, and keep the terms apart; the arguments are those of `forward`.

        Returns:
            The logits (N, K), or None in training if no term needs them; per term its value (), without its weight,
            with its graph; per boundary term its agreement (R,) on the R rows that it compares, detached.

        Raises:
            ValueError: If a term needs labels and there are none, or names rows that the batch does not have.
        """
        logits, captured = self.observe(inputs)
        count = len(next(iter(inputs.values())))
        values, agreements = self.compare(logits, captured, targets, BatchFacts(count, labels, rows, samples))
        return logits, values, agreements

    def observe(self, inputs: Mapping[str, Any]) -> tuple[Tensor | None, dict[CapturePoint, Tensor]]:
        """Run the student; return its logits, or None in training if no term needs them, and what was captured."""
        without = self.training and not self.trains_logits
        # A graph that is traced shows no versions.
        before = {} if torch.compiler.is_compiling() else versions(inputs)
        output, captured = self.capture.run(lambda: self.student(**inputs), stop=without)
        if not torch.compiler.is_compiling():
            refuse_changes(before, inputs, self.student)
        return (None if without else self.task.prediction(output, self.student, "student")), captured

    def compare(
        self,
        logits: Tensor | None,
        captured: Mapping[CapturePoint, Tensor],
        targets: Mapping[str, Tensor],
        facts: BatchFacts,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the values and agreements of the terms; the first two arguments are what `observe` returned.

        Args:
            logits: The student's logits, or None.
            captured: Its tensors.
            targets: The teacher's tensors by the names that the terms use.
            facts: What terms may need beside tensors of the models.
        """
        tensors = {name: captured[point] for name, point in self.points.items()}
        if logits is not None:
            tensors[LOGITS] = logits
        values: list[Tensor] = []
        agreements: list[Tensor] = []
        for term in self.terms:
            student = _named(term.student, tensors)
            given = _given(term, targets, facts, _device(student))
            chosen = self._rows_of(term, facts)
            # Without a row there is nothing to compare, and yet every process has to reach the same parameters.
            if chosen is not None and chosen.start == chosen.stop and not term.objective.exchanges:
                value, agreement = _nothing_compared(term, student, given)
            else:
                if chosen is not None:
                    # Not for all rows: the gradient of a slice is a copy.
                    student, given = _sliced(student, chosen), {k: _sliced(v, chosen) for k, v in given.items()}
                value, agreement = term.compare(student, given)
            values.append(value)
            if agreement is not None:
                agreements.append(agreement)
        return values, agreements

    def _rows_of(self, term: RunTerm, facts: BatchFacts) -> slice | None:
        """Return the rows that a term compares; None for all of them."""
        if term.rows is None or (facts.rows is None and not self.training):
            return None
        groups = facts.rows or {}
        check_rows([term], groups)
        rows = groups[term.rows]
        if not 0 <= rows.start <= rows.stop <= facts.count:
            raise ValueError(f"the rows {term.rows!r} are {rows}, and the batch has {facts.count}")
        return rows


def _given(term: RunTerm, targets: Mapping[str, Tensor], facts: BatchFacts, device: torch.device) -> dict[str, Tensors]:
    """Return what the objective of a term needs beside the student's tensor.

    Raises:
        ValueError: If the batch does not have it.
    """
    given: dict[str, Tensors] = {}
    if term.teacher is not None:
        given["teacher"] = _named(term.teacher, targets)
    if term.needs("labels"):
        if facts.labels is None:
            raise ValueError(f"term {term.name!r} needs labels, and the batch has none")
        given["labels"] = facts.labels
    elif "labels" in term.objective.takes and facts.labels is not None:
        given["labels"] = facts.labels
    if term.needs("domains"):
        given["domains"] = domains_of(facts.rows, facts.count, device)
    if term.needs("sample_ids"):
        if facts.samples is None:
            raise ValueError(
                f"term {term.name!r} needs the ids of the samples, and the batch has none. Prepare the training set "
                "with ImageTransform, which gives them."
            )
        given["sample_ids"] = facts.samples
    return given


def _nothing_compared(term: RunTerm, student: Tensors, given: Mapping[str, Tensors]) -> tuple[Tensor, Tensor | None]:
    """Return a value of 0 that reaches all that the term trains, and the agreement of all rows."""
    formed = term.formed(given)
    adapted = term.adapt(student)
    trained = [*term.objective.parameters(), *term.target_form.parameters()]
    nothing = [tensor.flatten()[:0].sum() for tensor in (*_each(adapted), *trained)]
    return torch.stack(nothing).sum(), term.agreement(adapted, formed)


def _named(names: Names, tensors: Mapping[str, Tensor]) -> Tensors:
    return tensors[names] if isinstance(names, str) else tuple(tensors[name] for name in names)


def _each(tensors: Tensors) -> Sequence[Tensor]:
    return (tensors,) if isinstance(tensors, Tensor) else tensors


def _sliced(tensors: Tensors, rows: slice) -> Tensors:
    return tensors[rows] if isinstance(tensors, Tensor) else tuple(tensor[rows] for tensor in tensors)


def _device(tensors: Tensors) -> torch.device:
    return _each(tensors)[0].device


def domains_of(rows: Mapping[str, slice] | None, count: int, device: torch.device) -> Tensor:
    """Return the domain of each image of a batch, (N,): 0 in the rows "source", 1 in "target", and -1 elsewhere."""
    domains = torch.full((count,), -1, device=device)
    for number, name in enumerate(DOMAINS):
        if rows is not None and name in rows:
            domains[rows[name]] = number
    return domains


def check_rows(terms: Iterable[RunTerm], groups: Iterable[str]) -> None:
    """Check that batches have the rows that terms compare.

    Args:
        terms: The terms.
        groups: The names of the groups of rows that a batch has.

    Raises:
        ValueError: If a term names another group.
    """
    known = sorted(groups)
    for term in terms:
        if term.needs("domains") and not set(DOMAINS) <= set(known):
            raise ValueError(
                f"term {term.name!r} compares two domains, and batches have one; train on PairedDomains(source, target)"
            )
        if term.rows is not None and term.rows not in known:
            raise ValueError(
                f"term {term.name!r} compares the rows {term.rows!r} of a batch, and batches have "
                f"{f'the groups {known}' if known else 'no groups of rows'}"
            )
