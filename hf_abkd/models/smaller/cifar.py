"""The networks for CIFAR of examples/cifar_models.py, whose code comes with their weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

from hf_abkd.models.smaller.factors import share_of
from hf_abkd.models.smaller.family import Channels, Depth, Family, KeptChannels

_GROUPS = 3


@dataclass(frozen=True)
class DepthOfAll(Depth):
    """The blocks of nets whose config counts all layers: three groups of blocks of two layers, and some more.

    Args:
        others: How many layers are in no block.
    """

    others: int = 0

    def counts(self, config: PreTrainedConfig) -> list[int]:
        """Return how many blocks each group has."""
        return [(config.depth - self.others) // (2 * _GROUPS)] * _GROUPS

    def fields(self, counts: Sequence[int], config: PreTrainedConfig) -> dict[str, Any]:
        """Return the number of layers with so many blocks."""
        return {"depth": 2 * _GROUPS * counts[0] + self.others}


def _widths(config: PreTrainedConfig, width: float) -> dict[str, Any]:
    # What a group has more than the one before it is padded, half of it on either side.
    pads = [(after - before) // 2 for before, after in zip(config.widths, config.widths[1:], strict=False)]
    widths = [share_of(config.widths[0], width)]
    for pad in pads:
        widths.append(widths[-1] + (2 * share_of(pad, width) if pad else 0))
    return {"widths": widths}


def _widen_factor(config: PreTrainedConfig, width: float) -> dict[str, Any]:
    return {"widen_factor": share_of(config.widen_factor, width)}


def stream(group: int, theirs: Sequence[int], ours: Sequence[int]) -> list[int]:
    """Return which channels of a group are kept: those that the kept ones of the group before are added to, and others.

    The shortcut pads on both sides, so that a channel of one group is another one in the next.

    Args:
        group: Which group, from 0 on.
        theirs: The widths of the teacher.
        ours: Those of the student.
    """
    kept = list(range(ours[0]))
    for before in range(group):
        pad, small_pad = ((widths[before + 1] - widths[before]) // 2 for widths in (theirs, ours))
        behind = pad + theirs[before]
        kept = [*range(small_pad), *(pad + channel for channel in kept), *range(behind, behind + small_pad)]
    return kept


def _of_group(group: int) -> KeptChannels:
    def kept(_: int, __: int, teacher: PreTrainedConfig, student: PreTrainedConfig) -> list[int]:
        return stream(group, teacher.widths, student.widths)

    return kept


def _resnet_channels() -> tuple[Channels, ...]:
    rules = [Channels(r"^(conv1|bn1)\.", 0, _of_group(0)), Channels(r"^linear\.weight$", 1, _of_group(_GROUPS - 1))]
    for group in range(_GROUPS):
        blocks = rf"^layer{group + 1}\."
        rules += [
            Channels(rf"{blocks}\d+\.", 0, _of_group(group)),
            Channels(rf"{blocks}(\d+\.conv2|[1-9]\d*\.conv1)\.", 1, _of_group(group)),
            Channels(rf"{blocks}0\.conv1\.", 1, _of_group(max(0, group - 1))),
        ]
    return tuple(rules)


CIFAR: dict[str, Family] = {
    "cifar_resnet": Family(
        DepthOfAll("depth", r"^layer(?P<stage>\d)\.(?P<block>\d+)\.", first_stage=1, others=2),
        _widths,
        channels=_resnet_channels(),
        head=r"^linear\.",
    ),
    "cifar_wide_resnet": Family(
        DepthOfAll("depth", r"^block(?P<stage>\d)\.(?P<block>\d+)\.", first_stage=1, others=4),
        _widen_factor,
        head=r"^fc\.",
    ),
}
