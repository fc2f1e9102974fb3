"""Families of convolutional nets: ResNet, ConvNeXt and the MobileNets."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from hf_abkd.models.smaller.factors import share_of
from hf_abkd.models.smaller.family import Depth, Family


def _resnet(config: PreTrainedConfig, width: float) -> dict[str, Any]:
    sizes = [config.embedding_size, *config.hidden_sizes]
    # Inside of a bottleneck is a quarter of its channels. One unit for all, as equal sizes need no shortcut.
    unit = 4 if config.layer_type == "bottleneck" and not any(size % 4 for size in sizes) else 1
    embedding_size, *hidden_sizes = [unit * share_of(size // unit, width) for size in sizes]
    return {"embedding_size": embedding_size, "hidden_sizes": hidden_sizes}


def _convnext(config: PreTrainedConfig, width: float) -> dict[str, Any]:
    return {"hidden_sizes": [share_of(size, width) for size in config.hidden_sizes]}


def _mobilenet(config: PreTrainedConfig, width: float) -> dict[str, Any]:
    return {"depth_multiplier": config.depth_multiplier * width}


_STAGES = Depth("depths", r"\.stages\.(?P<stage>\d+)\.layers\.(?P<block>\d+)\.")
_CONVNEXT = Family(_STAGES, _convnext)
# How many layers there are stands in the code. Widths are rounded to multiples of 8 there, which may make those on both
# sides of a block equal: the student then has a shortcut that the teacher has not.
_MOBILENET = Family(None, _mobilenet)

CONVOLUTIONAL: dict[str, Family] = {
    "convnext": _CONVNEXT,
    "convnextv2": _CONVNEXT,
    "mobilenet_v1": _MOBILENET,
    "mobilenet_v2": _MOBILENET,
    "resnet": Family(_STAGES, _resnet),
}
