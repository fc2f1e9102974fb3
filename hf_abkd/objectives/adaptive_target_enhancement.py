"""Adaptive target enhancement: how much the label counts grows with how sure the teacher is of it (OFA-KD)."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from hf_abkd.layers.connection import Connection, Kind, Side
from hf_abkd.layers.exit_branch import exit_branch
from hf_abkd.objectives.objective import Objective
from hf_abkd.objectives.probabilities import labelled, mean_of_labelled
from hf_abkd.settings import number, whole_number


class AdaptiveTargetEnhancement(Objective):
    """Learn the label, the more the surer the teacher is of it, and the teacher's probabilities of the other classes.

    The value is -(1 + p)^gamma log q of the labelled class, and -p log q of each other class, with the probabilities p
    of the teacher and q of the student: with gamma 1 the cross-entropies with the label and with the teacher together.
    A teacher of another architecture thinks otherwise of the other classes; where it is sure, the label counts for more
    against what it thinks.

    Requirements: logits of both models over the same classes, and labels. Where a layer of the student is named in
        the place of its logits, `Term(AdaptiveTargetEnhancement(), student="layer", teacher="logits")`, an exit that
        reads it is the connector that the term gets by itself: convolutions behind a map, blocks of a transformer
        behind tokens. It trains with the student, is saved in checkpoints, and is no part of the student that is
        exported. `one_for_all(student)` names four layers. A sample with the label -100 has none and is left out, as
        `CrossEntropy` does.
    Relations: it holds the cross-entropy with the labels: no `CrossEntropy` stands beside it on the same logits.
        `DecoupledKnowledgeDistillation` weighs the labelled class and the others apart, too.
    Paper: Hao et al., "One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation",
        NeurIPS 2023, https://huggingface.co/papers/2310.19444
        (`gamma` as there; 1 by default, 1.5 for a transformer that teaches a ResNet-18 on ImageNet). In it this stands
        on the logits and on each of four exits, all weights 1, at temperature 1.
    Shapes: student, teacher (N, K), logits; labels (N,), integers in [0, K) or -100; returns ().
    Differs from the authors' code: it raises the probabilities of the other classes to gamma, too, and takes the
        cross-entropy with the label out, which stands beside it once, for the logits and not for the exits. On the
        logits, with gamma 1, the sum is the same. Exits are as wide as the layer that they read, and twice as wide for
        each halving of a map; there the width at the end is the larger one of the two models' last layers, and four
        merged tokens get that of the student's. A map is not halved to less than two rows or columns. Exits of other
        layers than maps are blocks of a transformer, also those of an MLP, for which it has others.

    Args:
        gamma: How much more the label counts where the teacher is sure of it; with 1, (1 + p) times as much.
        exit_blocks: How many blocks an exit has; 4 for each layer less the number of its stage, of four, there.

    Raises:
        ValueError: If `gamma` is negative or not finite, `exit_blocks` is negative, or a batch has
            fewer than two classes.
        TypeError: If the labels of a batch are not integers of shape (N,).

    Example:
        >>> import torch
        >>> from hf_abkd.objectives import AdaptiveTargetEnhancement
        >>> logits, labels = torch.zeros(1, 2), torch.tensor([0])
        >>> round(AdaptiveTargetEnhancement(gamma=2.0)(logits, logits, labels=labels).item(), 4)
        1.9062
    """

    needs: ClassVar[AbstractSet[str]] = frozenset({"teacher", "labels"})
    citation: ClassVar[str] = """@inproceedings{hao2023one,
  title     = {One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation},
  author    = {Hao, Zhiwei and Guo, Jianyuan and Han, Kai and Tang, Yehui and Hu, Han and Wang, Yunhe and Xu, Chang},
  booktitle = {Advances in Neural Information Processing Systems},
  volume    = {36},
  year      = {2023},
  url       = {https://arxiv.org/abs/2310.19444}
}"""

    def __init__(self, *, gamma: float = 1.0, exit_blocks: int = 1) -> None:
        super().__init__()
        self.gamma = number("gamma", gamma, least=0)
        self.exit_blocks = whole_number("exit_blocks", exit_blocks, least=0)

    def connect(self, student: Sequence[Side], teacher: Sequence[Side], kind: Kind) -> Connection | None:
        """Propose an exit from a map or tokens; vectors, and other kinds than "auto", are connected as ever.

        Raises:
            ValueError: If tokens lie on no grid over the image, or the two cannot be connected so.
        """
        if kind != "auto" or len(student[0].shape) == 2:
            return super().connect(student, teacher, kind)
        branch = exit_branch(student[0], teacher[0].shape[1], self.exit_blocks)
        return Connection(branch, nn.Identity(), "exit")

    def forward(self, student: Tensor, teacher: Tensor, *, labels: Tensor) -> Tensor:
        """Return the weighted cross-entropy averaged over the samples that have a label, shape ()."""
        is_true, known = labelled("AdaptiveTargetEnhancement", student, labels)
        probabilities = teacher.softmax(1)
        weights = ((1 + probabilities) ** self.gamma).where(is_true, probabilities)
        return mean_of_labelled(-(weights * functional.log_softmax(student, dim=1)).sum(1), known)

    def extra_repr(self) -> str:
        """Show the settings in `repr`, logs and model cards."""
        return f"gamma={self.gamma}, exit_blocks={self.exit_blocks}"
