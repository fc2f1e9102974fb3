"""Teachers of every family of which a smaller model can be made, tiny and each made once."""

import copy
from functools import cache

import pytest
import torch
from example_runs import imported
from traced import build

from hf_abkd.models.smaller.families import FAMILIES

# Of one head, or of one pair of blocks in each stage, nothing can be left out.
_LARGER = {
    **{name: {"embed_dim": 16, "num_heads": [2, 4, 8, 16], "depths": [2, 2, 4, 2]} for name in ("swin", "swinv2")},
    "mobilenet_v1": {"depth_multiplier": 0.25},
    "mobilenet_v2": {"depth_multiplier": 0.5},
    "dinov2_swiglu": {"use_swiglu_ffn": True},
    "resnet": {"layer_type": "basic"},
    "resnet_bottleneck": {"downsample_in_bottleneck": True},
}
#: The families, and variants of them that have other tensors.
NAMES = [*FAMILIES, "dinov2_swiglu", "resnet_bottleneck"]


@cache
def _made(name):
    torch.manual_seed(0)
    if name.startswith("cifar"):
        cifar = imported("cifar_models")
        config, model = cifar.FAMILIES[name.removeprefix("cifar_")]
        made = model(config(depth=20) if name == "cifar_resnet" else config(depth=16, widen_factor=2))
    else:
        tiny = build(name.removesuffix("_swiglu").removesuffix("_bottleneck"))
        changes = _LARGER.get(name, {})
        described = tiny.config.to_dict()
        if "embed_dim" in changes:
            del described["hidden_size"]  # it follows from that
        made = type(tiny)(type(tiny.config).from_dict({**described, **changes}))
    for tensor_name, tensor in made.state_dict().items():
        if tensor.ndim > 1:
            # So that something of an image is left behind many layers.
            tensor.normal_(std=(2 / tensor[0].numel()) ** 0.5)
        elif tensor.is_floating_point():
            # No two channels alike, statistics and shifts included.
            tensor.add_(torch.rand_like(tensor) * 0.1 + ("running_var" in tensor_name))
    return made.eval()


@pytest.fixture(params=NAMES)
def teacher(request):
    return copy.deepcopy(_made(request.param))


@pytest.fixture
def teacher_named():
    return lambda name: copy.deepcopy(_made(name))
