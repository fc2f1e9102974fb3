"""Factor transfer: the student's translation of a layer against the teacher's paraphrase of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from hf_abkd.layers.connection import Connection, Kind, Side
from hf_abkd.layers.connectors import AsMap
from hf_abkd.layers.forms import OnGrid, map_layouts
from hf_abkd.layers.paraphraser import Factors, Paraphraser, coded
from hf_abkd.objectives.objective import Known, Objective, Pairs

KIM_2018 = """@inproceedings{kim2018paraphrasing,
  title     = {Paraphrasing Complex Network: Network Compression via Factor Transfer},
  author    = {Kim, Jangho and Park, SeongUk and Kwak, Nojun},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2018},
  url       = {https://arxiv.org/abs/1802.04977}
}"""


class FactorTransfer(Objective):
    """Match the direction of the student's factors with that of the teacher's.

    The teacher's layer goes through the encoder of a paraphraser, an autoencoder that was trained on it before and
    stays; the student's through a translator, three convolutions to as many factors, which is trained with it. Both are
    divided by their norms, and the value is the mean of the absolute differences.

    Requirements: one layer of each model on a grid over the image, and a stage before in which the paraphraser is
        trained: `hf_abkd.factor_transfer` returns both stages. No labels.
    Relations: `Hint` compares the layer itself, through one convolution.
    Paper: Kim, Park and Kwak, "Paraphrasing Complex Network: Network Compression via Factor Transfer", NeurIPS 2018,
        https://huggingface.co/papers/1802.04977 (p = 1, a factor rate of 0.5, a weight of 500 to 1000)
    Shapes: student, target (N, ...), the factors; returns (). A mean over elements, as in the authors' code, whose
        weights are the weights here.
    Differs from the paper: another grid of the student's is brought to the teacher's before its translator.

    Args:
        paraphraser: The paraphraser, which `Paraphrasing` trains; None makes one, of a rate of 0.5.

    Raises:
        ValueError: If a layer lies on no grid, or the paraphraser is one of another layer.

    Example:
        >>> import torch
        >>> from hf_abkd.objectives import FactorTransfer
        >>> factors = torch.rand(2, 3, 4, 4)
        >>> round(FactorTransfer()(2 * factors, factors).item(), 6)
        0.0
    """

    trains: ClassVar[bool] = True
    pairs: ClassVar[Pairs] = "last"
    published_weight: float = 500.0
    citation: ClassVar[str] = KIM_2018

    def __init__(self, *, paraphraser: Paraphraser | None = None) -> None:
        super().__init__()
        # Not as a part of this module: the teacher's side holds it.
        self._paraphraser = (Paraphraser() if paraphraser is None else paraphraser,)

    def connect(self, student: Sequence[Side], teacher: Sequence[Side], kind: Kind) -> Connection:
        """Propose the translator, and the encoder of the paraphraser.

        Raises:
            ValueError: If another kind is asked for, or a layer lies on no grid.
        """
        if kind != "auto":
            raise ValueError(f"FactorTransfer trains a translator of its own; connector={kind!r} has no use")
        ours, theirs = map_layouts(student[0], teacher[0])
        (paraphraser,) = self._paraphraser
        paraphraser.build(teacher[0].shape[theirs.channel_dim])
        channels, factors = student[0].shape[ours.channel_dim], paraphraser.factors
        on_grid = [] if ours.grid == theirs.grid or theirs.grid is None else [OnGrid(theirs.grid)]
        translator = nn.Sequential(AsMap(ours), *on_grid, coded([channels, channels, factors, factors]))
        form = nn.Sequential(AsMap(theirs), Factors(paraphraser))
        return Connection(translator, form, f"translator and paraphraser to {factors} factors")

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the mean of the absolute differences of the directions, shape ()."""
        ours, theirs = (functional.normalize(factors.flatten(1), dim=1) for factors in (student, target))
        return (ours - theirs).abs().mean()


class Paraphrasing(Objective):
    """Train a paraphraser: the teacher's layer as it comes back from the factors, against the layer itself.

    It teaches the student nothing, and a stage of it alone leaves the student as it is. Its value is the mean squared
    difference, as published.

    Args:
        paraphraser: The paraphraser.
    """

    equal_shapes: ClassVar[bool] = False
    trains: ClassVar[bool] = True
    teaches: ClassVar[bool] = False
    citation: ClassVar[str] = KIM_2018

    def __init__(self, *, paraphraser: Paraphraser) -> None:
        super().__init__()
        self.paraphraser = paraphraser

    def connect(self, student: Sequence[Side], teacher: Sequence[Side], kind: Kind) -> Connection:
        """Make a map of the teacher's layer; the student's stays."""
        _, theirs = map_layouts(student[0], teacher[0])
        return Connection(nn.Identity(), AsMap(theirs), "paraphraser")

    def begin(self, known: Known) -> None:
        """Build the paraphraser."""
        self.paraphraser.build(known.targets[0][1])

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the mean squared difference of the teacher's layer and its paraphrase, shape ()."""
        back: Tensor = self.paraphraser(target)
        return (back - target).square().mean()

    def extra_repr(self) -> str:
        """Show the settings in `repr`, logs and model cards."""
        return f"rate={self.paraphraser.rate}"
