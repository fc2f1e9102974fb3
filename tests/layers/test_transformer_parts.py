import pytest
import tiny
import torch
from torch import nn
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    PvtConfig,
    PvtForImageClassification,
    SwinConfig,
    SwinForImageClassification,
)

from hf_abkd.layers.transformer_parts import SelfAttention, blocks, self_attentions


def swin():
    return SwinForImageClassification(
        SwinConfig(image_size=16, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[2, 4], window_size=4)
    )


def pvt():
    sizes = {"depths": [1, 2, 1, 1], "num_attention_heads": [1, 1, 2, 2]}
    return PvtForImageClassification(PvtConfig(image_size=32, hidden_sizes=[4, 8, 8, 8], **sizes))


def test_queries_keys_and_values_are_found_in_order():
    """The last of the list is the last block of the model, which the papers compare."""
    model = tiny.vit(8)
    assert self_attentions(model, of="student")[-1] == SelfAttention(
        "vit.layers.1.attention", *(f"vit.layers.1.attention.{part}_proj" for part in "qkv"), heads=2, width=8
    )
    assert len(self_attentions(model, of="student")) == 2
    assert [attention.heads for attention in self_attentions(swin(), of="student")] == [2, 4]
    last = self_attentions(pvt(), of="student")[-1]
    assert last.projections == tuple(
        f"pvt.encoder.block.3.0.attention.self.{part}" for part in ("query", "key", "value")
    )


def test_attention_that_queries_and_keys_do_not_show_is_named():
    """Compared without its bias for positions it would be another attention than the model's."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    size = {"image_size": 16, "patch_size": 8}
    plain, biased = (
        BeitForImageClassification(BeitConfig(**sizes, **size, use_relative_position_bias=biased))
        for biased in (False, True)
    )
    assert self_attentions(plain, of="student")[0].further == ""
    assert "relative_position" in self_attentions(biased, of="student")[0].further
    assert "relative_position" in self_attentions(swin(), of="student")[0].further


def test_a_model_without_self_attention_is_told_what_to_take():
    """A CNN has none, and the user should not have to look for what it has."""
    with pytest.raises(ValueError, match="ResNetForImageClassification has no self-attention .* AttentionTransfer"):
        self_attentions(tiny.resnet(), of="student")


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (tiny.vit, [f"vit.layers.{number}" for number in range(2)]),
        (tiny.resnet, [f"resnet.encoder.stages.{number}" for number in range(2)]),
        (swin, [f"swin.encoder.layers.{number}.blocks.0" for number in range(2)]),
        (pvt, ["pvt.encoder.block.0.0", "pvt.encoder.block.1.1", "pvt.encoder.block.2.0", "pvt.encoder.block.3.0"]),
    ],
)
def test_blocks_of_a_model_are_found(model, expected):
    """Each name has to be a module that runs, one after another."""
    model = model()
    assert blocks(model) == expected
    ran = []
    for name in expected:
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name))
    size = 32 if expected[0].startswith("pvt") else 16
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, size, size))
    assert ran == expected


def test_a_model_without_blocks_is_refused():
    """A list of plain layers is no list of blocks."""
    with pytest.raises(ValueError, match="Sequential has no list of blocks or stages; name the layers"):
        blocks(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
