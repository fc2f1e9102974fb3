"""What one forward pass shows: on families of transformers, and on plain modules without a name anyone knows."""

import re

import pytest
import torch
import traced
from torch import nn
from torch.nn import functional
from transformers import ConvNextConfig, ConvNextForImageClassification, ViTConfig, ViTForImageClassification

from hf_abkd.layers.capture import CapturePoint
from hf_abkd.layers.layout import Layout
from hf_abkd.layers.tracing import trace


def hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def reasons(found, part):
    """Why the activations with this in their names are left out."""
    return [site.left_out for site in found.sites if part in site.module]


class Block(nn.Module):
    """A residual MLP over the last dimension."""

    def __init__(self, width, hidden=None):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.act, self.down = nn.Linear(width, hidden or 2 * width), nn.GELU(), nn.Linear(2 * width, width)

    def forward(self, tokens):
        return tokens + self.down(self.act(self.up(self.norm(tokens))))


class LinearPatches(nn.Module):
    """A transformer without a convolution: patches are cut by reshaping, and special tokens come first."""

    def __init__(self, patch=8, special=1, width=16):
        super().__init__()
        self.patch = patch
        self.embed = nn.Linear(3 * patch**2, width)
        self.special = nn.Parameter(torch.zeros(1, special, width))
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.head = nn.Linear(width, 4)

    def forward(self, images):
        samples, _, height, width = images.shape
        rows, columns, patch = height // self.patch, width // self.patch, self.patch
        cut = images.reshape(samples, 3, rows, patch, columns, patch).permute(0, 2, 4, 1, 3, 5)
        tokens = self.embed(cut.reshape(samples, rows * columns, -1))
        tokens = torch.cat([self.special.expand(samples, -1, -1), tokens], 1)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.head(self.blocks(tokens).mean(1))


class ChannelsFirst(nn.Module):
    """Tokens (N, C, L) of flattened patches, with convolutions over one dimension."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 8, stride=8)
        self.mix = nn.Sequential(nn.Conv1d(8, 12, 1), nn.ReLU(), nn.Conv1d(12, 8, 1), nn.ReLU())
        self.head = nn.Linear(8, 4)

    def forward(self, images):
        return self.head(self.mix(self.patches(images).flatten(2)).mean(2))


def cnn(*channels, activation=nn.ReLU):
    """A plain CNN whose grids halve."""
    layers = []
    for number, (before, after) in enumerate(zip((3, *channels), channels, strict=False)):
        layers += [nn.Conv2d(before, after, 3, stride=2 if number else 1, padding=1), activation()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], 4))


# ---- Layouts ----

EIGHT = (8, 8)


@pytest.mark.parametrize(
    ("family", "name", "layout"),
    [
        ("resnet", "stages.1.layers.0.activation", Layout("NCHW", EIGHT)),
        ("convnext", "stages.1.layers.0.act", Layout("NHWC", EIGHT)),
        ("convnextv2", "stages.0.layers.0.act", Layout("NHWC", (16, 16))),
        ("swin", "layers.1.blocks.0.mlp.activation_fn", Layout("NLC", EIGHT)),
        ("ijepa", "layers.0.mlp.activation_fn", Layout("NLC", EIGHT)),
        ("siglip", "layers.0.mlp.activation_fn", Layout("NLC", EIGHT)),
        ("vit", "layers.5.mlp.activation_fn", Layout("NLC", EIGHT, 1)),
        ("deit", "layers.0.mlp.activation_fn", Layout("NLC", EIGHT, 2)),
        ("dinov2_with_registers", "layer.3.mlp.activation_fn", Layout("NLC", EIGHT, 5)),
        ("cvt", "stages.1.layers.0.intermediate.activation", Layout("NLC", EIGHT)),
        ("cvt", "stages.2.layers.0.intermediate.activation", Layout("NLC", (4, 4), 1)),
        ("pvt", "block.3.0.mlp.intermediate_act_fn", Layout("NLC", (2, 2), 1)),
        ("levit", "stages.2.layers.3.module.activation", Layout("NLC", (1, 1))),
    ],
)
def test_the_layout_of_a_family_is_found(family, name, layout):
    """With a wrong channel dimension or a class token among the patches, nothing that is compared belongs together."""
    site = traced.site(traced.of_family(family), name)
    assert (site.layout, site.left_out, site.calls) == (layout, "", 1)
    assert site.point == CapturePoint(site.module, "input")


@pytest.mark.parametrize("special", [0, 1, 2, 5, 8])
@pytest.mark.parametrize("size", [(64, 64), (32, 96), (48, 80)])
def test_tokens_without_a_convolution_are_placed_by_the_proportions_of_the_image(size, special):
    """A Linear on cut patches leaves no map from which the grid could be read."""
    found = traced.of_model(LinearPatches(special=special), traced.images(*size))
    grid = (size[0] // 8, size[1] // 8)
    assert [site.layout for site in found.sites] == [Layout("NLC", grid, special)] * 2
    assert not any(site.left_out for site in found.sites)


def test_tokens_with_channels_first_are_recognised():
    """(N, C, L) looks like (N, L, C): a linear map over positions would be the connector."""
    found = traced.of_model(ChannelsFirst())
    assert [(site.shape, site.layout) for site in found.sites] == [
        ((3, 12, 64), Layout("NCL", EIGHT)),
        ((3, 8, 64), Layout("NCL", EIGHT)),
    ]


@pytest.mark.parametrize("samples", [2, 8])
def test_equal_sizes_of_channels_rows_columns_and_batch_are_told_apart(samples):
    """(8, 8, 8, 8) says nothing; the layer before does."""
    images = torch.randn(samples, 3, 8, 8)
    found = traced.of_model(cnn(8), images)
    assert [site.layout for site in found.sites] == [Layout("NCHW", EIGHT)]
    last = nn.Sequential(nn.Conv2d(3, 8, 1), Permute(0, 2, 3, 1), nn.Linear(8, 8), nn.ReLU())
    found = traced.of_model(last, images)
    assert [site.layout for site in found.sites] == [Layout("NHWC", EIGHT)]
    found = traced.of_model(nn.Sequential(*last[:3], nn.LayerNorm(8), nn.ReLU()), images)
    assert [site.layout for site in found.sites] == [Layout("NHWC", EIGHT)]
    # 64 channels, 64 tokens.
    for model, order in ((LinearPatches(1, 0, 32), "NLC"), (Sequence1d(), "NCL")):
        found = traced.of_model(model, images)
        assert [site.layout for site in found.sites] == [Layout(order, EIGHT)] * len(found.sites)
        assert found.sites[0].shape == (samples, 64, 64)


class Permute(nn.Module):
    def __init__(self, *dims):
        super().__init__()
        self.dims = dims

    def forward(self, value):
        return value.permute(self.dims)


class Sequence1d(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.mix, self.act = nn.Conv2d(3, 64, 3, padding=1), nn.Conv1d(64, 64, 1), nn.ReLU()

    def forward(self, images):
        return self.act(self.mix(self.first(images).flatten(2)))


class Summed(nn.Module):
    """The activation sees a sum, which has memory of its own."""

    def __init__(self, dim):
        super().__init__()
        self.dim = dim
        self.one, self.two, self.act = nn.Conv2d(3, 8, 1), nn.Linear(8, 8), nn.ReLU()

    def forward(self, images):
        last = self.two(self.one(images).permute(0, 2, 3, 1))
        return self.act(last + last if self.dim == 3 else (last + last).permute(0, 3, 1, 2))


@pytest.mark.parametrize("grid", [(4, 6), (8, 8)])
@pytest.mark.parametrize(("dim", "order"), [(3, "NHWC"), (1, "NCHW")])
def test_a_sum_lies_as_its_parts_do(dim, order, grid):
    """Residual sums come before the activations of every ResNet, on grids as large as their number of channels too."""
    found = traced.of_model(Summed(dim), torch.randn(2, 3, *grid))
    assert [site.layout for site in found.sites] == [Layout(order, grid)]


def test_more_special_tokens_than_positions_are_none():
    """Latents, as a Perceiver has, are no grid with a rest."""

    class Latents(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches, self.latents, self.block = (
                nn.Conv2d(3, 8, 8, stride=8),
                nn.Parameter(torch.ones(25, 8)),
                Block(8),
            )

        def forward(self, images):
            return self.block(self.latents + self.patches(images).mean((2, 3))[:, None])

    (site,) = traced.of_model(Latents(), traced.images(24, 24)).sites
    assert site.layout == Layout("NLC") and site.left_out.startswith("lies on no grid over the image")


@pytest.mark.parametrize(("size", "grid"), [((32, 96), (2, 6)), ((96, 64), (6, 4)), ((32, 128), (1, 4))])
@pytest.mark.parametrize("family", ["resnet", "convnext", "pvt_v2"])
def test_images_need_not_be_square(family, size, grid):
    """A square grid of as many tokens would tear rows apart."""
    found = traced.of_model(traced.build(family), traced.images(*size))
    grids = [site.layout.grid for site in traced.used(found)]
    assert grid in grids and found.image_size == size
    assert {grid[0] * size[1] == grid[1] * size[0] for grid in grids if min(grid) > 1} == {True}


def test_a_transformer_for_images_that_are_not_square():
    """Its tokens are 4 rows of 8, and not 8 of 4."""
    model = ViTForImageClassification(
        ViTConfig(image_size=(32, 64), patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    )
    found = traced.of_model(model, traced.images(32, 64))
    assert found.sites[0].layout == Layout("NLC", (4, 8), 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_shows_the_same(dtype):
    """Teachers are often loaded in half precision."""
    for family in ("vit", "hiera", "resnet"):
        found = traced.of_model(traced.build(family).to(dtype), traced.images().to(dtype))
        assert found.sites == traced.of_family(family).sites


# ---- What is left out ----


@pytest.mark.parametrize(
    ("family", "part", "count", "message"),
    [
        ("regnet", "attention", 6, "pooled over all positions"),
        ("efficientnet", "squeeze_excite", 10, "pooled over all positions"),
        ("pp_lcnet", "squeeze_excitation", 2, "pooled over all positions"),
        ("pp_lcnet", "act_fn", 1, "pooled over all positions"),
        ("focalnet", "modulation.activation", 5, "pooled over all positions"),
        ("swinv2", "continuous_position_bias_mlp", 8, r"its first dimension is not the batch: \(1, 3, 3, 512\)"),
        ("mobilevit", "transformer", 9, "its first dimension is not the batch"),
        ("mobilevitv2", "layer.2.transformer", 4, r"its grid \(4, 16\) has not the proportions of the image"),
        ("mobilevitv2", "layer.3.transformer", 8, "its positions do not lie row by row: folded"),
        ("mobilevitv2", "layer.4.transformer", 6, r"its grid \(4, 1\) has not the proportions of the image"),
        ("perceiver", "self_attends", 4, "runs 2 times in one forward pass"),
        ("perceiver", "cross_attention", 2, "lies on no grid over the image"),
        ("siglip", "head", 1, "lies on no grid over the image"),
    ],
)
def test_gates_position_mlps_folded_and_repeated_layers_are_left_out(family, part, count, message):
    """None of them has a boundary at a place of the image, or one tensor; the student would learn noise."""
    found = reasons(traced.of_family(family), part)
    assert len(found) == count
    for reason in found:
        assert re.search(message, reason), reason


def test_nothing_else_is_left_out():
    """A layer that is lost without a reason is one pair less."""
    expected = {
        "regnet": ["attention"],
        "efficientnet": ["squeeze_excite"],
        "pp_lcnet": ["squeeze_excitation", "act_fn"],
        "focalnet": ["modulation.activation"],
        "swinv2": ["continuous_position_bias_mlp"],
        "mobilevit": ["transformer"],
        "mobilevitv2": ["transformer"],
        "perceiver": ["attend", "attention"],
        "siglip": ["head"],
        "metaclip_2": [],
    }
    for family in traced.FAMILIES:
        for site in traced.of_family(family).sites:
            if site.left_out:
                assert any(part in site.module for part in expected.get(family, [])), (family, site)


class Gated(nn.Module):
    """A gate whose pooling is a mean and no module, in the middle or at the end."""

    def __init__(self, last):
        super().__init__()
        self.first, self.act = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()
        self.down, self.gate, self.up = nn.Conv2d(8, 2, 1), nn.ReLU(), nn.Conv2d(2, 8, 1)
        self.second, self.end = (nn.Identity(), nn.Identity()) if last else (nn.Conv2d(8, 8, 3), nn.ReLU())

    def forward(self, images):
        maps = self.act(self.first(images))
        gated = maps * self.up(self.gate(self.down(maps.mean((2, 3), keepdim=True)))).sigmoid()
        return self.end(self.second(gated))


@pytest.mark.parametrize("last", [False, True])
def test_a_gate_without_a_pooling_module_is_left_out(last):
    """timm's gates take a mean; a stage of one position is where a net got that small by steps of two."""
    found = traced.of_model(Gated(last))
    assert reasons(found, "gate") == ["pooled over all positions (a gate, or part of the head)"]
    assert reasons(found, "act") == [""]


class GatedThenSmall(nn.Module):
    """A gate in the stage before the one that is really down to one position."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU())
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 2, 1), nn.ReLU(), nn.Conv2d(2, 8, 1))
        self.more, self.last = nn.Conv2d(8, 8, 1), nn.Sequential(nn.Conv2d(8, 8, 2), nn.ReLU())

    def forward(self, images):
        maps = self.first(images)
        return self.last(self.more(maps * self.gate(maps).sigmoid()))


def test_a_stage_of_one_position_is_no_gate():
    """Tiny images end there; after a gate it would be taken for another one."""
    found = traced.of_model(GatedThenSmall(), torch.randn(3, 3, 4, 4))
    assert [bool(site.left_out) for site in found.sites] == [False, True, False]
    assert found.sites[2].layout == Layout("NCHW", (1, 1))


def test_an_activation_in_a_block_that_runs_twice_is_left_out():
    """With the same weights it is one layer, whose input is two tensors; the first would stand for both."""
    block = nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU())
    (site,) = traced.of_model(nn.Sequential(block, block)).sites
    assert (site.module, site.calls) == ("0.1", 2)
    assert site.left_out == "runs 2 times in one forward pass, with the module that calls it"


class SequenceFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches, self.block = nn.Conv2d(3, 8, 8, stride=8), Block(8)

    def forward(self, images):
        return self.block(self.patches(images).flatten(2).permute(2, 0, 1))


def test_tokens_before_samples_are_left_out():
    """The samples would be taken for tokens."""
    (site,) = traced.of_model(SequenceFirst()).sites
    assert site.left_out == "its first dimension is not the batch: (64, 3, 16)" and site.layout is None


# ---- Functions instead of modules ----


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.ModuleDict({"conv": nn.Conv2d(3, 8, 3), "more": nn.Conv2d(8, 8, 3)})
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.ReLU()

    def forward(self, images):
        maps = functional.relu(self.body["conv"](images))
        maps = torch.relu_(self.norm(maps) + 0) + self.norm(maps).relu()
        return self.act(functional.gelu(input=self.body["more"](maps)))


def test_functional_activations_go_by_the_calls_of_the_module_that_makes_them():
    """As good a boundary as that of a module; without a name there would be nothing to train on."""
    found = traced.of_model(Functional())
    assert [site.module for site in found.sites] == [":relu#1", ":relu#2", ":relu#3", ":gelu#1", "act"]
    assert [site.activation for site in found.sites] == ["relu", "relu", "relu", "gelu", "ReLU"]
    assert [site.depth for site in found.sites] == [0.5, 0.5, 0.5, 1, 1] and not any(s.left_out for s in found.sites)
    encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.Sequential(nn.Conv2d(3, 16, 8, stride=8), nn.Flatten(2), Permute(0, 2, 1), encoder)
    found = traced.of_model(model)
    assert [(site.module, site.layout) for site in found.sites] == [("3:relu#1", Layout("NLC", EIGHT))]


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, images):
        return functional.relu6(torch.relu_(self.conv(images)), inplace=True)


def test_functions_in_place_go_by_the_same_names():
    """torch calls them by another name."""
    assert [site.module for site in traced.of_model(InPlace()).sites] == [":relu#1", ":relu6#1"]


# Whose activations are functions, or modules that run several times.
PLAIN_NETS = {"torchvision_resnet", "efficientnet_lite", "functional_resnet", "shared_relu_resnet"}


def test_the_functions_inside_activation_modules_are_not_activations_again():
    """Every nn.ReLU is a function call at heart."""
    calls = {
        family: [s.module for s in traced.of_family(family).sites if ":" in s.module] for family in traced.FAMILIES
    }
    assert {family for family in calls if calls[family]} - PLAIN_NETS == {"mobilevitv2"}
    assert all(name.endswith("attention:relu#1") for name in calls["mobilevitv2"])


def test_a_transformer_of_torch_shows_the_activations_that_are_modules():
    """In eval mode torch has a path that calls no module inside."""
    encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation=nn.GELU())
    model = nn.Sequential(nn.Conv2d(3, 16, 8, stride=8), nn.Flatten(2), Permute(0, 2, 1), encoder)
    (site,) = traced.of_model(model).sites
    assert (site.module, site.layout, site.left_out) == ("3.activation", Layout("NLC", EIGHT), "")


# ---- Sizes ----


def test_a_convolution_that_leaves_out_the_border_is_named():
    """The last pixels of every image would be ignored without a word."""
    config = ConvNextConfig(hidden_sizes=[4, 8], depths=[1, 1], num_stages=2)
    found = traced.of_model(ConvNextForImageClassification(config), traced.images(66, 64))
    assert found.cropped == (("convnext.embeddings.patch_embeddings", (4, 4), (66, 64)),)
    for family in ("convnext", "vit", "resnet"):
        assert traced.of_family(family).cropped == ()
    padded = traced.of_model(traced.build("resnet"), traced.images(66, 62))
    assert padded.cropped == (), "with padding nothing is lost"


@pytest.mark.parametrize("family", ["vit", "pvt"])
def test_a_model_that_cannot_run_a_size_says_so_itself(family):
    """Its own error names the sizes; another one in front of it would hide them."""
    model = traced.build(family)
    with pytest.raises((ValueError, RuntimeError), match="64|size|shape"):
        traced.of_model(model, traced.images(40, 40))
    assert hooks(model) == hooks(traced.build(family))


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (3, 8, 8)])
def test_one_image_is_not_enough(shape):
    """With one, a position MLP (1, ...) looks like the batch."""
    with pytest.raises(ValueError, match=r"tracing needs two images or more, \(N, C, H, W\); got \("):
        traced.of_model(cnn(4), torch.zeros(shape))


# ---- Depth, points, and what is left behind ----


def test_depth_is_the_share_of_layers_before():
    """Stages of a deep and of a shallow model are compared by it."""
    found = traced.of_model(cnn(4, 8, 8))
    assert [site.depth for site in found.sites] == [0.25, 0.5, 0.75]
    assert [site.module for site in found.sites] == ["1", "3", "5"]
    assert [site.activation for site in found.sites] == ["ReLU"] * 3


class Named(nn.Module):
    """A layer that takes names and returns a collection, as many in transformers do."""

    class Layer(nn.Module):
        def __init__(self, collect):
            super().__init__()
            self.block, self.collect = Block(8), collect

        def forward(self, *, mask=None, hidden_states):
            return self.collect(self.block(hidden_states))

    def __init__(self, collect):
        super().__init__()
        self.patches, self.layer = nn.Conv2d(3, 8, 8, stride=8), self.Layer(collect)

    def forward(self, images):
        return self.layer(mask=None, hidden_states=self.patches(images).flatten(2).transpose(1, 2))


@pytest.mark.parametrize(
    "collect", [lambda tokens: (tokens, None), lambda tokens: {"hidden_states": tokens}, lambda tokens: tokens]
)
def test_points_in_collections_and_keywords_are_described(collect):
    """A user may pair any layer; without its layout a connector would take tokens for something else."""
    points = [
        CapturePoint("layer", "input"),
        CapturePoint("layer", "output"),
        CapturePoint("patches", "output"),
        CapturePoint("patches", "input"),
        CapturePoint("layer.block.act", "output"),
    ]
    found = traced.of_model(Named(collect), points=points)
    tokens, maps = Layout("NLC", EIGHT), Layout("NCHW", EIGHT)
    assert [found.layouts[point] for point in points] == [tokens, tokens, maps, Layout("NCHW", (64, 64)), tokens]


def test_of_several_tensors_none_is_described():
    """Which of them is meant cannot be known, and capturing refuses it too."""
    point = CapturePoint("layer", "output")
    assert not traced.of_model(Named(lambda tokens: (tokens, tokens.mean(1))), points=[point]).layouts


def test_an_activation_in_place_changes_nothing():
    """CNNs of torchvision and timm overwrite their pre-activations."""
    for activation in (nn.ReLU, lambda: nn.ReLU(inplace=True)):
        torch.manual_seed(0)
        found = traced.of_model(cnn(8, 8, activation=activation))
        assert [site.layout for site in found.sites] == [Layout("NCHW", (64, 64)), Layout("NCHW", (32, 32))]


class Fails(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.drop = cnn(4, 4), nn.Dropout()

    def forward(self, images):
        self.body(images)
        raise RuntimeError("out of order")


def test_an_error_leaves_no_hook_and_no_mode_behind():
    """Hooks of a failed trace would run, and keep tensors, in every later step."""
    model = Fails().train()
    model.body[0].eval()
    with pytest.raises(RuntimeError, match="out of order"):
        traced.of_model(model)
    assert hooks(model) == 0
    assert model.training and model.drop.training and not model.body[0].training
    assert torch.relu(torch.ones(1)) == 1, "functions are watched no longer"


@pytest.mark.parametrize("family", ["hiera", "resnet", "levit", "mobilevitv2"])
def test_a_model_is_as_it_was(family):
    """Statistics or modes that a look changes would make the run depend on it."""
    model = traced.build(family).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    count = hooks(model)
    found = trace(model, lambda pixels: model(pixel_values=pixels), traced.images())
    assert found.sites == traced.of_family(family).sites, "dropout and batch statistics are switched off"
    assert all(module.training for module in model.modules()) and hooks(model) == count
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_no_gradient_is_recorded():
    """It would keep all activations of a large teacher in memory."""
    model, enabled = traced.build("hiera"), []
    model.register_forward_pre_hook(lambda *_: enabled.append(torch.is_grad_enabled()))
    traced.of_model(model)
    assert len(enabled) > 20 and not any(enabled)
