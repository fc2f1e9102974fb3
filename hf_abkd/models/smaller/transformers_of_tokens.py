"""Families of transformers: ViT and what is built like it, and Swin."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from hf_abkd.models.smaller.factors import share_of
from hf_abkd.models.smaller.family import Channels, Depth, Family, in_groups


def whole_heads(config: PreTrainedConfig, width: float) -> dict[str, Any]:
    """Return the settings of a ViT with a share of the heads, each as wide as before."""
    heads = share_of(config.num_attention_heads, width)
    told = {
        name: getattr(config, name) * heads // config.num_attention_heads
        for name in ("hidden_size", "intermediate_size")
        if hasattr(config, name)  # of a DINOv2 it is a multiple of the width
    }
    # Kept by the configs of models that have no pooler, too.
    if getattr(config, "pooler_output_size", None) == config.hidden_size:
        told["pooler_output_size"] = told["hidden_size"]
    return {"num_attention_heads": heads, **told}


def whole_heads_of_stages(config: PreTrainedConfig, width: float) -> dict[str, Any]:
    """Return the settings of a Swin with a share of the first stage's heads, and of the others' with it."""
    first = config.num_heads[0]
    kept = share_of(first, width)
    uneven = [count for count in config.num_heads if count * kept % first]
    if uneven:
        raise ValueError(
            f"width={width:g} keeps {kept} of the {first} heads of the first stage, which is no whole number of the "
            f"{uneven[0]} of another one (num_heads {list(config.num_heads)}). Choose another width"
        )
    embed_dim = config.embed_dim * kept // first
    return {
        "num_heads": [count * kept // first for count in config.num_heads],
        "embed_dim": embed_dim,
        "hidden_size": embed_dim * 2 ** (len(config.num_heads) - 1),
    }


_VIT = Family(Depth("num_hidden_layers", r"\.layers?\.(?P<block>\d+)\."), whole_heads)
_DINOV2 = Family(
    Depth("num_hidden_layers", r"\.layers?\.(?P<block>\d+)\."),
    whole_heads,
    # What the classifier reads is the class token and, behind it, the mean of the others.
    channels=(Channels(r"^classifier\.weight$", 1, in_groups(2)),),
)
_SWIN = Family(
    # Of each pair of blocks the second one shifts the windows.
    Depth("depths", r"\.layers\.(?P<stage>\d+)\.blocks\.(?P<block>\d+)\.", together=2),
    whole_heads_of_stages,
    # Four neighbours lie behind one another before they are merged.
    channels=(
        Channels(r"\.downsample\.reduction\.weight$", 1, in_groups(4)),
        Channels(r"^swin\..*\.downsample\.norm\.", 0, in_groups(4)),
    ),
)

TRANSFORMERS: dict[str, Family] = {
    "beit": _VIT,
    "data2vec-vision": _VIT,
    "deit": _VIT,
    "dinov2": _DINOV2,
    "dinov2_with_registers": _DINOV2,
    "ijepa": _VIT,
    "swin": _SWIN,
    "swinv2": _SWIN,
    "vit": _VIT,
    "vit_msn": _VIT,
}
