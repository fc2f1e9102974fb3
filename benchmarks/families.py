"""One tiny model of every family of image classifiers in transformers: random weights from a config, no download.

`FAMILIES` and `LEFT_OUT` together name every model type that `AutoModelForImageClassification` knows, and `FAMILIES`
also four networks in plain torch whose activations are no modules of their own (see `plain_nets`). A model here is
small in width and depth and faithful in structure: hierarchical families keep their stages, the others have at least
four layers, and what the published checkpoints have is there, such as squeeze-and-excitation, class, distillation and
register tokens, relative position biases, layer scale, shifted windows, dropout and stochastic depth. Settings not
named below are the library's defaults.

All families take `pixel_values` of shape (N, 3, 64, 64), so that one batch serves any pair of them. At this size the
stages have grids of 16, 8, 4 and 2 positions a side, where the first convolutions divide by four, and the patches of
the isotropic families one of 8.

DeiT and LeViT have a second class each, `...ForImageClassificationWithTeacher`. It differs from the first only in a
second linear head, whose logits are averaged with those of the first, and is therefore no family of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from plain_nets import efficientnet_lite, functional_resnet, shared_relu_resnet, torchvision_resnet
from torch import nn
from transformers import (
    BeitForImageClassification,
    BitForImageClassification,
    CLIPForImageClassification,
    ConvNextForImageClassification,
    ConvNextV2ForImageClassification,
    CvtForImageClassification,
    Data2VecVisionForImageClassification,
    DeiTForImageClassification,
    Dinov2ForImageClassification,
    Dinov2WithRegistersForImageClassification,
    DonutSwinForImageClassification,
    EfficientNetForImageClassification,
    FocalNetForImageClassification,
    HGNetV2ForImageClassification,
    HieraForImageClassification,
    IJepaForImageClassification,
    LevitForImageClassification,
    MetaClip2ForImageClassification,
    MobileNetV1ForImageClassification,
    MobileNetV2ForImageClassification,
    MobileViTForImageClassification,
    MobileViTV2ForImageClassification,
    PerceiverForImageClassificationConvProcessing,
    PoolFormerForImageClassification,
    PPLCNetForImageClassification,
    PreTrainedModel,
    PvtForImageClassification,
    PvtV2ForImageClassification,
    RegNetForImageClassification,
    ResNetForImageClassification,
    SegformerForImageClassification,
    SiglipForImageClassification,
    SwiftFormerForImageClassification,
    SwinForImageClassification,
    Swinv2ForImageClassification,
    TextNetForImageClassification,
    ViTForImageClassification,
    ViTMSNForImageClassification,
)

IMAGE_SIZE = 64

LEFT_OUT = {
    "dinat": "needs the package natten",
    "imagegpt": "takes `input_ids`, the colour clusters of the pixels in raster order, and no `pixel_values`",
    "shieldgemma2": "a language model that says yes or no: it needs `input_ids` beside the image, and has no classes",
    "siglip2": "takes patches, (N, patches, 3 * patch * patch), with their `spatial_shapes`, and no images",
    "timm_wrapper": "needs the package timm",
}


@dataclass(frozen=True)
class Family:
    """How to make a tiny model of one family.

    Args:
        name: The model type, such as "swinv2", or the name of a plain network.
        make: Returns a model with random weights for a given number of classes; the caller seeds torch.
        image_size: Side of the square images it takes, in pixels.
        hierarchical: Whether its feature maps shrink from stage to stage.
    """

    name: str
    make: Callable[[int], nn.Module]
    image_size: int
    hierarchical: bool


# The default, 0.02, is for some hundred channels; in models this narrow, little of an image would pass a few layers.
_INITIALIZER_RANGE = 0.1


def _make(model: type[PreTrainedModel], settings: dict[str, Any], classes: int) -> PreTrainedModel:
    return model(model.config_class(num_labels=classes, initializer_range=_INITIALIZER_RANGE, **settings))


def _hierarchical(model: type[PreTrainedModel], **settings: Any) -> Family:
    return Family(model.config_class.model_type, partial(_make, model, settings), IMAGE_SIZE, hierarchical=True)


def _isotropic(model: type[PreTrainedModel], **settings: Any) -> Family:
    return Family(model.config_class.model_type, partial(_make, model, settings), IMAGE_SIZE, hierarchical=False)


def _plain(make: Callable[[int], nn.Module]) -> Family:
    return Family(make.__name__, make, IMAGE_SIZE, hierarchical=True)


_TOKENS = {
    "image_size": IMAGE_SIZE,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
}
_VIT = {**_TOKENS, "intermediate_size": 128}
# BEiT and Data2Vec have no other position information, and it is off by default.
_BEIT = {**_VIT, "use_relative_position_bias": True}
_CONVNEXT = {"hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 2, 1], "image_size": IMAGE_SIZE}
# As published, layers come in pairs of which the second shifts the windows, and the last stage is one window. Swin and
# DonutSwin fail if a stage's grid is smaller than its window.
_SWIN = {
    "image_size": IMAGE_SIZE,
    "embed_dim": 8,
    "depths": [2, 2, 2, 2],
    "num_heads": [1, 2, 4, 8],
    "window_size": 2,
}
_PVT = {
    "image_size": IMAGE_SIZE,
    "hidden_sizes": [8, 16, 40, 64],
    "depths": [1, 1, 2, 1],
    "num_attention_heads": [1, 2, 5, 8],
}

_FAMILIES = [
    _isotropic(BeitForImageClassification, **_BEIT),
    _hierarchical(
        BitForImageClassification, embedding_size=8, hidden_sizes=[16, 32, 64, 128], depths=[2, 2, 2, 2], num_groups=4
    ),
    _isotropic(CLIPForImageClassification, vision_config=_VIT),
    _hierarchical(ConvNextForImageClassification, **_CONVNEXT),
    _hierarchical(ConvNextV2ForImageClassification, **_CONVNEXT),
    _hierarchical(CvtForImageClassification, embed_dim=[8, 24, 48], num_heads=[1, 3, 6], depth=[1, 2, 4]),
    _isotropic(Data2VecVisionForImageClassification, **_BEIT),
    _isotropic(DeiTForImageClassification, **_VIT),
    _isotropic(Dinov2ForImageClassification, **_TOKENS),
    _isotropic(Dinov2WithRegistersForImageClassification, **_TOKENS),
    _hierarchical(DonutSwinForImageClassification, **_SWIN),
    _hierarchical(
        EfficientNetForImageClassification,
        image_size=IMAGE_SIZE,
        width_coefficient=0.25,
        depth_coefficient=0.5,
        hidden_dim=320,
    ),
    _hierarchical(
        FocalNetForImageClassification,
        image_size=IMAGE_SIZE,
        embed_dim=8,
        hidden_sizes=[8, 16, 32, 64],
        depths=[1, 1, 2, 1],
    ),
    _hierarchical(
        HGNetV2ForImageClassification,
        embedding_size=8,
        hidden_sizes=[16, 32, 64, 128],
        stem_channels=[3, 8, 8],
        stage_in_channels=[8, 16, 32, 64],
        stage_mid_channels=[8, 8, 16, 16],
        stage_out_channels=[16, 32, 64, 128],
        stage_num_blocks=[1, 1, 2, 1],
        stage_numb_of_layers=[3, 3, 3, 3],
        use_learnable_affine_block=True,
    ),
    _hierarchical(
        HieraForImageClassification,
        image_size=[IMAGE_SIZE] * 2,
        embed_dim=8,
        depths=[1, 1, 2, 1],
        num_heads=[1, 2, 4, 8],
    ),
    _isotropic(IJepaForImageClassification, **_VIT),
    # Grids of 4, 2 and 1: four convolutions, always, halve the image before the first stage.
    _hierarchical(
        LevitForImageClassification,
        image_size=IMAGE_SIZE,
        hidden_sizes=[32, 48, 64],
        num_attention_heads=[2, 3, 4],
        key_dim=[8, 8, 8],
        depths=[2, 2, 2],
    ),
    _isotropic(MetaClip2ForImageClassification, vision_config=_VIT),
    # The dropout of both MobileNets is, by default, the probability to *keep* of the TensorFlow code.
    _hierarchical(
        MobileNetV1ForImageClassification, image_size=IMAGE_SIZE, depth_multiplier=0.125, classifier_dropout_prob=0.001
    ),
    _hierarchical(
        MobileNetV2ForImageClassification, image_size=IMAGE_SIZE, depth_multiplier=0.1, classifier_dropout_prob=0.2
    ),
    # Its last stage attends over one token: it cuts the grid of 2 into four, and the parts do not see each other.
    _hierarchical(
        MobileViTForImageClassification,
        image_size=IMAGE_SIZE,
        hidden_sizes=[16, 24, 32],
        neck_hidden_sizes=[8, 8, 16, 16, 24, 32, 64],
        expand_ratio=2.0,
    ),
    _hierarchical(MobileViTV2ForImageClassification, image_size=IMAGE_SIZE, width_multiplier=0.125),
    # As published, a block of layers runs more than once with the same weights, and the latents are no grid.
    _isotropic(
        PerceiverForImageClassificationConvProcessing,
        num_latents=32,
        d_latents=32,
        num_blocks=2,
        num_self_attends_per_block=4,
        num_self_attention_heads=4,
        num_cross_attention_heads=1,
        qk_channels=32,
        v_channels=32,
    ),
    _hierarchical(PoolFormerForImageClassification, hidden_sizes=[8, 16, 40, 64], depths=[1, 1, 2, 1]),
    # Its output has no `logits`: the scores of the classes are called `last_hidden_state`.
    _hierarchical(PPLCNetForImageClassification, scale=0.25, class_expand=160),
    _hierarchical(PvtForImageClassification, **_PVT),
    _hierarchical(PvtV2ForImageClassification, **_PVT),
    _hierarchical(
        RegNetForImageClassification,
        embedding_size=8,
        hidden_sizes=[16, 24, 48, 96],
        depths=[1, 2, 2, 1],
        groups_width=8,
    ),
    _hierarchical(ResNetForImageClassification, embedding_size=8, hidden_sizes=[16, 32, 64, 128], depths=[2, 2, 2, 2]),
    _hierarchical(SegformerForImageClassification, **_PVT),
    # The text config, unused, warns that its own default tokens are outside its default vocabulary.
    _isotropic(
        SiglipForImageClassification, vision_config=_VIT, text_config={"bos_token_id": None, "eos_token_id": None}
    ),
    # Depths of two: the last layer of a stage attends, those before it convolve.
    _hierarchical(
        SwiftFormerForImageClassification, image_size=IMAGE_SIZE, embed_dims=[8, 16, 32, 64], depths=[2, 2, 2, 2]
    ),
    _hierarchical(SwinForImageClassification, **_SWIN),
    _hierarchical(Swinv2ForImageClassification, **_SWIN),
    _hierarchical(TextNetForImageClassification, stem_out_channels=8, hidden_sizes=[8, 8, 16, 32, 64]),
    _isotropic(ViTForImageClassification, **_VIT),
    _isotropic(ViTMSNForImageClassification, **_VIT),
    _plain(torchvision_resnet),
    _plain(efficientnet_lite),
    _plain(functional_resnet),
    _plain(shared_relu_resnet),
]

FAMILIES: dict[str, Family] = {family.name: family for family in sorted(_FAMILIES, key=lambda family: family.name)}


def _settle_batch_norm(model: nn.Module, image_size: int) -> None:
    """Make the running statistics those of one batch of noise, and every weight 1.

    With means of 0 and variances of 1, an untrained deep network answers the same to every image. And transformers
    draws the weights of EfficientNet, MobileViT and MobileViTV2 around 0, so that each layer shrinks what passes.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        nn.init.ones_(norm.weight)
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        model(pixel_values=torch.randn(16, 3, image_size, image_size))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    # LeViT keeps the attention biases of a pass in evaluation mode, whatever is loaded later, until it is set to train.
    model.train()
    model.eval()


def build(name: str, *, seed: int = 0, classes: int = 10) -> nn.Module:
    """Return a tiny model of one family, in evaluation mode, on the CPU.

    Args:
        name: A key of `FAMILIES`.
        seed: What torch is seeded with before the weights are drawn.
        classes: Number of logits.

    Raises:
        ValueError: If there is no such family here.
    """
    if name not in FAMILIES:
        reason = f" ({LEFT_OUT[name]})" if name in LEFT_OUT else ""
        raise ValueError(f"no tiny model of family {name!r}{reason}; use one of {', '.join(FAMILIES)}")
    torch.manual_seed(seed)
    model = FAMILIES[name].make(classes).eval()
    _settle_batch_norm(model, FAMILIES[name].image_size)
    return model
