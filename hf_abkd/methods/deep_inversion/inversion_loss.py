"""The loss of DeepInversion: the labels, the teacher's statistics, image priors, and a student that disagrees."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_abkd.methods.deep_inversion.image_priors import mean_norm, total_variation
from hf_abkd.methods.deep_inversion.norm_statistics import NormStatistics
from hf_abkd.methods.deep_inversion.settings import DeepInversion
from hf_abkd.methods.deep_inversion.sight import Sight
from hf_abkd.models.label_spaces import label_match


def jensen_shannon(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean over samples of the Jensen-Shannon divergence of two softmaxes, in nats: from 0 to log 2.

    Paper: Yin et al., CVPR 2020, https://huggingface.co/papers/1912.08795
    Shapes: logits (N, K) and (N, K); returns ().
    Differs: nothing is clamped. With many classes most probabilities are tiny, and clamping them at 0.01 hides where
        the models disagree.
    """
    log_first, log_second = F.log_softmax(first, dim=1), F.log_softmax(second, dim=1)
    log_mean = torch.logaddexp(log_first, log_second) - math.log(2)
    divergences = [(log.exp() * (log - log_mean)).sum(1) for log in (log_first, log_second)]
    return (divergences[0] + divergences[1]).mean() / 2


def inversion_loss(
    teacher: Sight,
    student: Sight | None,
    statistics: NormStatistics,
    images: Tensor,
    labels: Tensor,
    settings: DeepInversion,
    *,
    coarse: bool,
) -> tuple[Tensor, Tensor]:
    """Return the loss of a batch, (), as `DeepInversion` has it, and its R_feature, ().

    Args:
        teacher: What the teacher sees.
        student: What the student sees, or None without one.
        statistics: Those of the teacher, with its hooks on.
        images: In our units, at the teacher's size, (N, C, H, W).
        labels: Their classes, (N,).
        settings: The weights.
        coarse: Whether the teacher sees them at half their size.

    Raises:
        ValueError: If teacher and student share no classes.
    """
    seen = F.avg_pool2d(images, 2) if coarse else images
    logits = teacher.logits(seen)
    distances = statistics.take()
    r_feature = distances.sum()
    weighted = r_feature + (settings.first_feature_factor - 1) * distances[0]
    loss = F.cross_entropy(logits, labels) + settings.feature_weight * weighted
    if settings.tv_weight:
        loss = loss + settings.tv_weight * total_variation(seen)
    if settings.l2_weight:
        loss = loss + settings.l2_weight * mean_norm(seen)
    if student is not None and settings.adaptive_weight:
        loss = loss + settings.adaptive_weight * (1 - _disagreement(teacher, student, logits, images))
    return loss, r_feature.detach()


def _disagreement(teacher: Sight, student: Sight, teacher_logits: Tensor, images: Tensor) -> Tensor:
    """Return the divergence of teacher and student on the classes that they share, ()."""
    student_logits = student.logits(images, resize=True)
    match = label_match(student.model, teacher.model, student_logits.shape[1], teacher_logits.shape[1])
    if not match.is_comparable:
        raise ValueError(f"teacher and student cannot disagree on classes that they do not share: {match.describe()}")
    if match.kind not in ("same", "assumed"):
        teacher_logits = teacher_logits[:, list(match.teacher_classes)]
        student_logits = student_logits[:, list(match.student_classes)]
    return jensen_shannon(teacher_logits, student_logits)
