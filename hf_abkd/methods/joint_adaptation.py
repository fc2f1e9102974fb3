"""Joint progressive distillation and unsupervised domain adaptation: a teacher that adapts, and teaches meanwhile.

Paper: Nguyen-Meidine et al., IJCNN 2020, https://huggingface.co/papers/2005.07839
What differs from the paper is told at `joint_adaptation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from hf_abkd.data.batch import SOURCE, TARGET_DOMAIN
from hf_abkd.objectives import CrossEntropy, DomainClassification, KnowledgeDistillation, MaximumMeanDiscrepancy
from hf_abkd.settings import number
from hf_abkd.stages.schedules import Exponential, Product, Rise, Saturating, Schedule
from hf_abkd.stages.stage import Stage
from hf_abkd.stages.term import PairedTerms, Term

Confusion = Literal["mmd", "gradient_reversal"]


def joint_adaptation(
    *,
    teacher_features: str = "classifier:input",
    confusion: Confusion = "mmd",
    beta_start: float = 0.1,
    beta_end: float = 0.9,
    alpha: float = 0.3,
    temperature: float = 20.0,
    gamma_slope: float = 10.0,
    terms: Sequence[Term | PairedTerms] = (),
) -> list[Stage]:
    """Return the one stage of Nguyen-Meidine et al.: the teacher adapts to the target while the student learns from it.

    In every step the teacher is trained by (1 - b) (CE on the source + g domain confusion), and the student by
    b (alpha KL on the source + (1 - alpha) CE on the source + KL on the target), with KL(teacher || student) at the
    temperature and times its square. b grows from `beta_start` towards `beta_end` by a constant factor per step, and g
    from 0 towards 1, over the whole stage. No label of the target is read.

    Train on `hf_abkd.data.paired_domains.PairedDomains`. Both domains go through a model together, so that
    its BatchNorm normalises them by their common statistics. Both models are moved by one optimiser with one learning
    rate, and gradients are clipped (`max_grad_norm`) by their common norm. The teacher that was passed is changed for
    good: `trainer.teacher.model.save_pretrained(folder)` keeps it.

    Paper: Nguyen-Meidine et al., IJCNN 2020, https://huggingface.co/papers/2005.07839
    Differs from the authors' code: both models are in training mode in every step, after evaluations too; b and g
        change with every step and not with every epoch, and g is not reset; the teacher's answers are constants to the
        student, and the divergence is from them. The authors step the teacher first, and the student learns from what
        the stepped teacher says; here one forward pass of the teacher serves both, and both are stepped after it.

    Args:
        teacher_features: The tensor of the teacher whose domains are confused.
        confusion: `"mmd"`, the paper's, or `"gradient_reversal"`, a classifier of domains with a reversed gradient; its
            weight is that of the discriminator's own learning, too.
        beta_start: b at the first step.
        beta_end: What b would be after the last step. At the last of n steps it is
            beta_start * (beta_end / beta_start) ** ((n - 1) / n): 0.880 of 100 steps, with the defaults.
        alpha: The share of the teacher's part on the source, in [0, 1].
        temperature: What logits are divided by.
        gamma_slope: How fast g grows.
        terms: Further terms of the student, as those of activation boundaries, on both domains unless they name `rows`.

    Raises:
        ValueError: If a value is not possible.

    Example:
        ```python
        both = PairedDomains(labelled_source, unlabelled_target, seed=0)
        DistillationTrainer(student, args, teacher=teacher, stages=joint_adaptation(), train_dataset=both).train()
        ```
    """
    for name, value in (("beta_start", beta_start), ("beta_end", beta_end)):
        number(name, value, above=0, below=1)
    if beta_start >= beta_end:
        raise ValueError(f"beta_start must be below beta_end, got {beta_start} and {beta_end}")
    number("alpha", alpha, least=0, most=1)
    beta = Exponential(start=beta_start, end=beta_end)
    rest = Rise(start=1 - beta_start, end=1 - beta_end, ratio=beta_end / beta_start)

    def taught(rows: str, share: float) -> Term:
        return Term(KnowledgeDistillation(temperature=temperature), rows=rows, weight=beta.times(share))

    published = [taught(TARGET_DOMAIN, 1.0)]
    if alpha > 0:
        published.append(taught(SOURCE, alpha))
    if alpha < 1:
        published.append(Term(CrossEntropy(), rows=SOURCE, weight=beta.times(1 - alpha)))
    confused = domain_confusion(
        teacher_features,
        confusion=confusion,
        weight=Product(rest, Saturating(start=0.0, end=1.0, slope=gamma_slope)),
        name=f"teacher/{confusion}",
    )
    return [
        Stage(
            terms=[*published, *terms],
            teacher_terms=[Term(CrossEntropy(), rows=SOURCE, weight=rest, name="teacher/cross_entropy"), confused],
            name="joint adaptation",
        )
    ]


def domain_confusion(
    features: str = "classifier:input",
    *,
    confusion: Confusion = "mmd",
    weight: float | Schedule | None = None,
    name: str | None = None,
) -> Term:
    """Return a term that makes the features of two domains alike.

    With `Term(CrossEntropy(), rows="source")` beside it, it adapts a model without a teacher.

    Args:
        features: The tensor of the model.
        confusion: `"mmd"` or `"gradient_reversal"`.
        weight: Its weight; by default g, from 0 to 1 over the stage.
        name: What it is called in logs.

    Raises:
        ValueError: If there is no such confusion.

    Example:
        >>> Stage([Term(CrossEntropy(), rows="source"), domain_confusion()], name="adaptation").name
        'adaptation'
    """
    if confusion not in ("mmd", "gradient_reversal"):
        raise ValueError(f"confusion must be 'mmd' or 'gradient_reversal', got {confusion!r}")
    objective = MaximumMeanDiscrepancy() if confusion == "mmd" else DomainClassification()
    weight = Saturating(start=0.0, end=1.0) if weight is None else weight
    return Term(objective, student=features, weight=weight, name=name or "")
