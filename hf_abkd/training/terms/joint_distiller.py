"""Joint distiller: a student that is taught by a teacher which is trained in the same step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.trainer_utils import HubStrategy

from hf_abkd.layers.sums import sums
from hf_abkd.models.outputs import LOGITS
from hf_abkd.stages.arguments import DistillationArguments
from hf_abkd.training.terms.distiller import BatchFacts, Distiller


class JointDistiller(nn.Module):
    """A student with its terms, and a teacher with terms of its own, in one forward pass and one loss.

    What a model is compared with is detached, so that each term moves one of the two models: a step by the sum is a
    step of each by its own part. The one forward pass is what Accelerate wraps, so that both are averaged over
    processes. The teacher is in training mode when this module is.

    Args:
        student: The student and its terms.
        teacher: The teacher and the terms that train it, which may compare with the student's logits; it captures what
            the student's terms compare with.
        targets: The tensor of the teacher behind each name in the student's terms, besides the logits.
    """

    def __init__(self, student: Distiller, teacher: Distiller, targets: Mapping[str, Any]) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher
        self.targets = dict(targets)
        self.terms = (*student.terms, *teacher.terms)
        self.trains_logits = student.trains_logits
        self.agreement_names = student.agreement_names

    def attach(self) -> JointDistiller:
        """Put the hooks on both models."""
        self.student.attach()
        self.teacher.attach()
        return self

    def detach(self) -> None:
        """Take the hooks off both models."""
        self.student.detach()
        self.teacher.detach()

    def forward(
        self,
        inputs: Mapping[str, Any],
        targets: Mapping[str, Any],
        labels: Tensor | None,
        weights: Tensor,
        rows: Mapping[str, slice] | None = None,
        samples: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Run both models and every term.

        Args:
            inputs: Keyword arguments of the student, without labels.
            targets: Keyword arguments of the teacher, in the place of what it says.
            labels: The labels of the batch, (N,), or None; -100 in rows that have none.
            weights: The weights of the terms, the student's first, (T + U,).
            rows: The groups of rows that terms may name.
            samples: The ids of the images, (N,), or None.

        Returns:
            As `Distiller.forward`; `terms` (T + U,) are those of the student and of the teacher, `logits` and
            `agreement` those of the student. `taught` (P,) are the sums of what the student is compared with.
        """
        logits, captured = self.teacher.observe(targets)
        taught = {name: captured[point].detach() for name, point in self.targets.items()}
        if logits is not None:
            taught[LOGITS] = logits.detach()
        split = len(self.student.terms)
        result: dict[str, Tensor] = self.student(inputs, taught, labels, weights[:split], rows, samples)
        result["taught"] = sums(list(taught.values())) if taught else weights.new_zeros(0)
        # The terms of the teacher may compare with the student in turn, as it was before this step.
        of_student = {LOGITS: result["logits"].detach()} if "logits" in result else {}
        facts = BatchFacts(len(next(iter(targets.values()))), labels, rows, samples)
        of_teacher, _ = self.teacher.compare(logits, captured, of_student, facts)
        values = torch.stack(of_teacher)
        result["loss"] = result["loss"] + (weights[split:] * values).sum()
        result["terms"] = torch.cat([result["terms"], values.detach()])
        return result


def refuse_unadaptable(name: str, teacher: object, *, args: DistillationArguments, cached: bool, domains: bool) -> None:
    """Check that a stage can train its teacher; needs no data.

    Args:
        name: The stage.
        teacher: Its teacher.
        args: The training arguments of the run.
        cached: Whether the teacher is a cache.
        domains: Whether the stage compares domains, of which one has no labels.

    Raises:
        ValueError: If it cannot, or the run would publish the teacher, or choose a student by it.
    """
    what = f"stage {name!r} trains the teacher"
    if cached:
        raise ValueError(f"{what}; a cache holds only what it said before. Pass the teacher itself.")
    if not isinstance(teacher, PreTrainedModel):
        raise ValueError(f"{what}, which must be a Hugging Face model, got {type(teacher).__name__}")
    if teacher.dtype in (torch.float16, torch.bfloat16):
        raise ValueError(
            f"{what}, whose weights are {teacher.dtype}: small updates would be lost in them. Load it with "
            "dtype=torch.float32."
        )
    if args.push_to_hub and args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
        raise ValueError(
            f"{what}, and its checkpoints hold the teacher; hub_strategy={args.hub_strategy.value!r} would publish it. "
            "Use 'end' or 'every_save'."
        )
    if domains and args.load_best_model_at_end and "source" not in (args.metric_for_best_model or ""):
        raise ValueError(
            f"{what} to a domain without labels, and load_best_model_at_end with metric_for_best_model="
            f"{args.metric_for_best_model!r} could choose the student by labels of that domain. Leave it out (the last "
            "epoch is what counts), or name a metric of the source, as of eval_dataset={'source': ...}."
        )
