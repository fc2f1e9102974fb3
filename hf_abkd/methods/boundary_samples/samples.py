"""Boundary supporting samples: knowledge distillation on images moved to the teacher's decision boundaries as well.

Paper: Heo et al., AAAI 2019, https://huggingface.co/papers/1805.05532
What differs from the paper is told at `boundary_supporting_samples`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from hf_abkd.methods.boundary_samples.attack import BoundaryAttack, choose_base, draw_targets
from hf_abkd.objectives import CrossEntropy, KnowledgeDistillation
from hf_abkd.settings import number
from hf_abkd.stages.extension import BASE, Extension, Material
from hf_abkd.stages.schedules import Linear, LinearUntil, Schedule
from hf_abkd.stages.stage import Stage
from hf_abkd.stages.term import PairedTerms, Term


class BoundarySamples(Extension):
    """Move some images of a batch over the teacher's boundary between their class and another.

    The images are those that both models classify correctly and about whose wrong classes they differ most
    (`choose_base`); the other class is drawn by the teacher's probabilities (`draw_targets`); a `BoundaryAttack` on the
    teacher moves them, in the colours of the images that student and teacher share. Each sum that is logged counts all
    batches since the last line of the log:

    - `boundary_samples/reached`: the share of the moved images that reached the other side;
    - `boundary_samples/gap`: the mean of |p_b - p_k| of those that did, 0 on the boundary itself;
    - `boundary_samples/passes`: forward passes of the teacher for one batch, each of what is left of the images;
    - `boundary_samples/per_batch`: new images of one batch.

    Paper: Heo et al., AAAI 2019, https://huggingface.co/papers/1805.05532
    Differs from the authors' code: the logits of the student that choose the images are those of its eval mode.

    Args:
        attack: How images are moved.
        share: How many images of a batch are moved at most, as a share of it (64 of 256 in the paper).
        keep_failed: Whether images that did not reach the boundary are taught too.

    Raises:
        ValueError: If `share` is no share.

    Example:
        >>> boundary_supporting_samples(samples=BoundarySamples(BoundaryAttack(steps=5), share=0.5))[0].name
        'boundary samples'
    """

    citation: ClassVar[str] = """@inproceedings{heo2019adversarial,
  title     = {Knowledge Distillation with Adversarial Samples Supporting Decision Boundary},
  author    = {Heo, Byeongho and Lee, Minsik and Yun, Sangdoo and Choi, Jin Young},
  booktitle = {Proceedings of the AAAI Conference on Artificial Intelligence},
  volume    = {33},
  pages     = {3771--3778},
  year      = {2019},
  url       = {https://arxiv.org/abs/1805.05532}
}"""
    group: ClassVar[str] = "boundary"
    figures: ClassVar[int] = 6

    def __init__(self, attack: BoundaryAttack | None = None, *, share: float = 0.25, keep_failed: bool = False) -> None:
        self.attack = BoundaryAttack() if attack is None else attack
        self.share = number("share", share, above=0, most=1)
        self.keep_failed = keep_failed

    def __repr__(self) -> str:
        """Return the settings, for checkpoints, logs and model cards."""
        return f"BoundarySamples({self.attack!r}, share={self.share}, keep_failed={self.keep_failed})"

    def make(self, material: Material) -> tuple[Tensor, Tensor]:
        """Return the moved images and the sums that are logged."""
        chosen = choose_base(material.student, material.teacher, material.labels, self.share)
        classes = material.labels[chosen]
        uniform = material.draws.uniform(1)[chosen, 0]
        goals = draw_targets(material.teacher[chosen], classes, uniform)
        attacked = self.attack(material.logits_of, material.images[chosen], classes, goals, material.clamp_)
        reached = attacked.reached.float()
        kept = attacked.images if self.keep_failed else attacked.images[attacked.reached]
        sums = [torch.ones_like(reached.sum()), reached.new_tensor(len(chosen)), reached.sum()]
        sums += [(attacked.gap * reached).sum(), reached.new_tensor(attacked.passes), reached.new_tensor(len(kept))]
        return kept, torch.stack(sums)

    def summary(self, sums: Sequence[float]) -> dict[str, float]:
        """Return the figures of the log; those that nothing was counted for are left out."""
        batches, moved, reached, gap, passes, kept = sums
        name = f"{self.group}_samples"
        figures = {}
        if moved:
            figures[f"{name}/reached"] = reached / moved
        if reached:
            figures[f"{name}/gap"] = gap / reached
        if batches:
            figures |= {f"{name}/passes": passes / batches, f"{name}/per_batch": kept / batches}
        return figures


def boundary_supporting_samples(
    *,
    temperature: float = 3.0,
    weight: float | Schedule | None = None,
    boundary_weight: float | Schedule | None = None,
    label_weight: float | Schedule = 1.0,
    samples: BoundarySamples | None = None,
    terms: Sequence[Term | PairedTerms] = (),
) -> list[Stage]:
    """Return the one stage of Heo et al.: labels, the teacher's probabilities, and those at its decision boundaries.

    The loss is CE + a(e) KL(teacher || student) on the batch + b(e) KL(teacher || student) on the moved images, with
    a(e) from 4 to 1 and b(e) from 2 to 0 at three quarters of the stage, after which no image is moved. Batch and moved
    images go through the student together: its BatchNorm normalises them by their common statistics, and these move its
    running statistics. The teacher is not changed in any way.

    Paper: Heo et al., "Knowledge Distillation with Adversarial Samples Supporting Decision Boundary", AAAI 2019,
        https://huggingface.co/papers/1805.05532
    Differs from the authors' code: a cross-entropy with the teacher's probabilities is written as the divergence from
        them, which has the same gradient; schedules change with every step and not with every epoch; the step of the
        attack does not depend on the scale of the logits (see `BoundaryAttack`); images that do not reach the boundary
        are left out; and student statistics are those of all images of a step.

    Args:
        temperature: What logits are divided by; the result is not multiplied by its square.
        weight: Of the batch's own term; by default the paper's a(e) = 1 + 3 (1 - e).
        boundary_weight: Of that of the moved images; by default the paper's b(e) = max(2 (1 - 4/3 e), 0).
        label_weight: Of the cross-entropy.
        samples: Which images are moved, and how.
        terms: Further terms of the stage, as those of activation boundaries; without `rows` they compare all images.

    Raises:
        ValueError: If a value is not possible.

    Example:
        ```python
        stages = boundary_supporting_samples(samples=BoundarySamples(share=0.25))
        DistillationTrainer(student, args, teacher=teacher, stages=stages, train_dataset=images).train()
        ```
    """
    samples = BoundarySamples() if samples is None else samples
    weight = Linear(start=4.0, end=1.0) if weight is None else weight
    if boundary_weight is None:
        boundary_weight = LinearUntil(start=2.0, end=0.0, until=0.75)

    def taught(rows: str, of_rows: float | Schedule) -> Term:
        objective = KnowledgeDistillation(temperature=temperature, temperature_squared=False)
        return Term(objective, rows=rows, weight=of_rows)

    published = [taught(BASE, weight), taught(samples.group, boundary_weight)]
    if label_weight != 0:
        published.insert(0, Term(CrossEntropy(), rows=BASE, weight=label_weight))
    return [Stage(terms=[*published, *terms], name="boundary samples", extension=samples)]
