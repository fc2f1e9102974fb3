"""What DIST+ adds on a layer: how its channels, and its positions over the batch, go with the teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from hf_abkd.layers.connection import Connection, Kind, Side
from hf_abkd.layers.connectors import AsMap
from hf_abkd.objectives.correlation import correlation
from hf_abkd.objectives.objective import Objective
from hf_abkd.settings import number


class FeatureCorrelation(Objective):
    """Make the student's features go with the teacher's: the channels at each position, the samples at each position.

    The first part is the correlation over the channels at each position of each image. The second is that over the
    samples of the batch at each position, of the sum of all channels there. Both count by what they lack to 1.

    Requirements: a layer a side, on a grid over the image, or vectors; no labels. Layers of other widths or grids are
        brought to the teacher's by a trained map, vectors by a linear one. The samples of a batch are compared with
        each other: a batch that is split has another value. **A batch of one sample** has no correlation over samples;
        only the channels count.
    Relations: DIST+ is `StrongerTeacher` on the logits and this on a layer, `CrossEntropy` beside them.
    Paper: Huang et al., "DIST+: Knowledge Distillation From a Stronger Adaptive Teacher", TPAMI 2025,
        https://doi.org/10.1109/TPAMI.2025.3554235
        (its other half, a teacher that is adapted to the student first, is not part of this).
    Shapes: student, teacher (N, C, H, W), or (N, C) for a single position; returns ().
    Differs from public code: the authors published none of this part, and the article is not open. The form is that of
        torchdistill 1.1.5, but that it adds the correlation of the channels itself, which drives it to -1, where here
        stands what it lacks to 1. Both weights are 1 there.

    Args:
        channel_weight: The weight of the part over the channels.
        spatial_weight: The weight of the part over the samples at each position.

    Raises:
        ValueError: If a weight is negative or not finite, or a layer lies on no grid over the image.

    Example:
        >>> import torch
        >>> from hf_abkd.objectives import FeatureCorrelation
        >>> features = torch.randn(4, 8, 3, 3)
        >>> abs(round(FeatureCorrelation()(2 * features + 1, features).item(), 5))
        0.0
    """

    per_sample: ClassVar[bool] = False
    citation: ClassVar[str] = """@article{huang2025dist,
  title   = {{DIST}+: Knowledge Distillation From a Stronger Adaptive Teacher},
  author  = {Huang, Tao and You, Shan and Wang, Fei and Qian, Chen and Xu, Chang},
  journal = {IEEE Transactions on Pattern Analysis and Machine Intelligence},
  volume  = {47},
  number  = {7},
  pages   = {5571--5585},
  year    = {2025},
  url     = {https://doi.org/10.1109/TPAMI.2025.3554235}
}"""

    def __init__(self, *, channel_weight: float = 1.0, spatial_weight: float = 1.0) -> None:
        super().__init__()
        self.channel_weight = number("channel_weight", channel_weight, least=0)
        self.spatial_weight = number("spatial_weight", spatial_weight, least=0)

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        """Return the weighted sum of what both correlations lack to 1, each a mean, shape ()."""
        value = self.channel_weight * (1 - correlation(student, target, 1).mean())
        if len(student) > 1:
            value = value + self.spatial_weight * (1 - correlation(student.sum(1), target.sum(1), 0).mean())
        return value

    def connect(self, student: Sequence[Side], teacher: Sequence[Side], kind: Kind) -> Connection | None:
        """Propose what makes maps of the layers, and brings the student's to the teacher's channels and grid.

        Raises:
            ValueError: If another kind of connector is asked for, or a layer lies on no grid.
        """
        sides = student[0], teacher[0]
        ours, theirs = (side.layout_or_plain for side in sides)
        if theirs.order == "NC":
            return super().connect(student, teacher, kind)
        if kind not in ("auto", "identity", "map"):
            raise ValueError(f"FeatureCorrelation can connect maps by 'identity' or 'map', not by {kind!r}")
        channels = [side.shape[layout.channel_dim] for side, layout in zip(sides, (ours, theirs), strict=True)]
        is_equal = ours.grid is not None and ours.grid == theirs.grid and channels[0] == channels[1]
        if is_equal and kind != "map":
            # Not as they lie: of tokens, which may be equal as they are, the channels come last.
            return Connection(AsMap(ours), AsMap(theirs), "identity")
        return super().connect(student, teacher, "map" if kind == "auto" else kind)

    def extra_repr(self) -> str:
        """Show the settings in `repr`, logs and model cards."""
        return f"channel_weight={self.channel_weight}, spatial_weight={self.spatial_weight}"
