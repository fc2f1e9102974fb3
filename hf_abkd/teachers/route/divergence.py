"""How far a student is from an anchor: the divergence of its classes from the teacher's."""

from __future__ import annotations

from torch import Tensor, nn

from hf_abkd.models.label_spaces import LabelMatch


def divergence(student: Tensor, teacher: Tensor, match: LabelMatch) -> Tensor:
    """Return the Kullback-Leibler divergence of a student's classes from a teacher's, sum p_T log(p_T / p_S), in nats.

    Of label spaces that are not the same, over the classes that both have.

    Shapes: student (N, K), teacher (N, K'), logits; returns (N,).
    """
    ours = student.detach().float()[:, list(match.student_classes)].log_softmax(1)
    theirs = teacher.detach().float()[:, list(match.teacher_classes)].log_softmax(1)
    return nn.functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(1)
