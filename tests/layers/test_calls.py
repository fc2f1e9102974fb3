"""Calls of activations: functions, and modules that run several times, against the same net with separate modules."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from hf_abkd.layers.boundary_points import resolve_boundaries, resolve_tensors
from hf_abkd.layers.call_names import call_name, parse_call
from hf_abkd.layers.capture import Capture, CapturePoint
from hf_abkd.layers.module_names import parse_name
from hf_abkd.layers.tracing import trace

SEPARATE = ["relu", "layers.0.relu1", "layers.0.relu2", "layers.1.relu1", "layers.1.relu2"]
CALLS = ["layers.0:relu#1", "layers.0:relu#2", "layers.1:relu#1", "layers.1:relu#2"]


class Swish(nn.Module):
    """As many libraries have it: no module of torch, and a product with a gate."""

    def forward(self, tensor):
        return tensor * torch.sigmoid(tensor)


class Block(nn.Module):
    """A residual block of torchvision: the sum is in place."""

    def __init__(self, width):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def first(self, tensor):
        return self.relu(tensor)

    last = first

    def forward(self, tensor):
        out = self.bn2(self.conv2(self.first(self.bn1(self.conv1(tensor)))))
        out += tensor
        return self.last(out)


class Separate(Block):
    def __init__(self, width, activation):
        super().__init__(width)
        self.relu1, self.relu2 = activation(), activation()

    def first(self, tensor):
        return self.relu1(tensor)

    def last(self, tensor):
        return self.relu2(tensor)


class Net(nn.Module):
    """Two blocks.

    Args:
        style: "separate" activation modules, one module "twice" in each block, one "shared" by all, one that is
            "unregistered" in the blocks, or a "function".
        activation: Makes an activation module.
        function: The function.
    """

    def __init__(self, style, activation=nn.ReLU, function=functional.relu, width=4):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.bn, self.head = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.Linear(width, 4)
        make = (lambda width: Separate(width, activation)) if style == "separate" else Block
        self.layers = nn.Sequential(make(width), make(width))
        self.recompute = False
        self.call = function
        if style != "function":
            self.relu = activation()
        for block in self.layers:
            if style == "twice":
                block.relu = activation()
            elif style == "shared":
                block.relu = self.relu
            elif style == "unregistered":
                vars(block)["relu"] = self.relu
            elif style == "function":
                vars(block)["relu"] = function

    def forward(self, pixel_values):
        maps = self.bn(self.conv(pixel_values))
        maps = self.call(maps) if not hasattr(self, "relu") else self.relu(maps)
        for block in self.layers:
            maps = checkpoint(block, maps, use_reentrant=False) if self.recompute else block(maps)
        return self.head(maps.mean((2, 3)))


STYLES = {
    "twice": (Net("twice"), ["relu", *CALLS]),
    "twice in place": (Net("twice", lambda: nn.ReLU(inplace=True)), ["relu", *CALLS]),
    "shared": (Net("shared"), [":relu#1", *CALLS]),
    "unregistered": (Net("unregistered"), [":relu#1", *(name.replace(":", ":/") for name in CALLS)]),
    "function": (Net("function"), [":relu#1", *CALLS]),
}
FUNCTIONS = {
    "relu": [
        lambda tensor: functional.relu(tensor, inplace=True),
        lambda tensor: functional.relu(input=tensor),
        torch.relu,
        torch.relu_,
        functional.relu_,
        torch.Tensor.relu,
        torch.Tensor.relu_,
        torch.ops.aten.relu,
        torch.ops.aten.relu_.default,
    ],
    "clamp": [lambda tensor: tensor.clamp(min=0), lambda tensor: torch.clamp_min(tensor, 0), lambda t: t.clip_(0)],
}
OTHERS = {
    "gelu": (nn.GELU, functional.gelu),
    "silu": (nn.SiLU, lambda tensor: functional.silu(tensor, inplace=True)),
    "hardswish": (nn.Hardswish, lambda tensor: functional.hardswish(tensor, inplace=True)),
    "leaky_relu": (lambda: nn.LeakyReLU(0.2), lambda tensor: functional.leaky_relu_(tensor, 0.2)),
    "hardtanh": (nn.ReLU6, lambda tensor: functional.hardtanh(tensor, 0, 6)),
    "relu6": (nn.ReLU6, functional.relu6),
}


def images(count=3):
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def names(model):
    return [site.module for site in trace(model, model, images()).sites if not site.left_out]


def learnt(model, places=None, *, train=True, compiled=False):
    """What a step sees: logits, tensors before the activations, and the gradients that a loss on these gives."""
    model, batch = copy.deepcopy(model).train(train), images()
    points = resolve_boundaries(model, names(model) if places is None else places, lambda: model(images()))
    first = copy.deepcopy(model.state_dict())
    with Capture(model, points.values()) as capture:
        capture.probe(lambda: model(images()))
        model.load_state_dict(first)
        run = torch.compile(capture.run, backend="eager", fullgraph=True) if compiled else capture.run
        logits, tensors = run(lambda: model(batch))
        factors = [torch.linspace(0, number + 1, tensor.numel()) for number, tensor in enumerate(tensors.values())]
        loss = sum((f * t.flatten().sigmoid()).sum() for f, t in zip(factors, tensors.values(), strict=True))
        (loss + logits.square().sum()).backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
    return [logits, *tensors.values(), loss, *gradients]


def same(ours, theirs):
    return all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


# ---- The same numbers as with separate modules ----


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("style", STYLES)
def test_calls_give_the_numbers_of_separate_modules(style, train):
    """The first of several calls, or one of another block, would teach the wrong layer without a word."""
    model, expected = STYLES[style]
    assert names(Net("separate")) == SEPARATE and names(model) == expected
    assert same(learnt(model, train=train), learnt(Net("separate"), train=train))


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_every_way_to_call_a_function_is_seen(kind):
    """One that is overlooked would shift the numbers of all that follow."""
    expected = learnt(Net("separate"))
    for function in FUNCTIONS[kind]:
        model = Net("function", function=function)
        assert names(model) == [name.replace("relu", kind) for name in [":relu#1", *CALLS]]
        assert same(learnt(model), expected)


@pytest.mark.parametrize("kind", OTHERS)
def test_other_activations_are_seen_as_well(kind):
    """Networks differ in little else."""
    module, function = OTHERS[kind]
    model = Net("function", function=function)
    assert names(model)[0] == f":{kind}#1"
    assert same(learnt(model), learnt(Net("separate", module)))


def test_a_tensor_times_its_own_gate_is_silu():
    """So it is written where torch had no function for it; a gate of another tensor is no activation."""
    own = Net("function", function=lambda tensor: tensor.mul_(tensor.sigmoid()))
    assert names(own)[:2] == [":silu#1", "layers.0:silu#1"]
    module = Net("twice", Swish)
    assert names(module) == ["relu", *CALLS]
    assert same(learnt(Net("function", function=Swish().forward)), learnt(module))
    assert names(Net("function", function=lambda tensor: tensor * torch.sigmoid(tensor + 1))) == []


def test_a_compiled_pass_sees_the_same_calls():
    """A compiler that leaves out the count would give the first call, or none."""
    model = copy.deepcopy(STYLES["twice in place"][0])
    del model.layers[1].relu
    vars(model.layers[1])["relu"] = lambda tensor: functional.relu(tensor, inplace=True)
    assert same(learnt(model, compiled=True), learnt(Net("separate")))


def test_what_a_compiler_does_not_show_is_not_compiled_while_the_hooks_are_on():
    """Of `torch.relu_` it shows no call; a part that were left out for longer would cost time in the next stage."""
    model = Net("function", function=torch.relu_)
    points = resolve_boundaries(model, ["layers.1"], lambda: model(images())).values()
    with Capture(model, points):
        assert "forward" in vars(model.layers[1]) and "forward" not in vars(model.layers[0])
        with pytest.raises(RuntimeError, match="calls an activation that a compiler does not show"):
            torch.compile(model, backend="eager", fullgraph=True)(images(1))
    assert "forward" not in vars(model.layers[1])


def test_calls_are_not_counted_again_where_layers_are_recomputed():
    """Activation checkpointing runs the blocks once more in the backward pass."""
    for style in ("twice in place", "function"):
        model = copy.deepcopy(STYLES[style][0])
        model.recompute = True
        assert same(learnt(model), learnt(Net("separate")))


def test_a_pass_is_left_at_the_last_call():
    """A phase without a term on the logits would pay for the rest."""
    model = Net("function")
    points = [CapturePoint("layers.0:relu#2", "input"), CapturePoint("layers.0:relu#1", "output")]
    model.layers[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with Capture(model, points) as capture:
        output, tensors = capture.run(lambda: model(images()), stop=True)
    assert output is None and list(tensors) == points
    assert tensors[points[1]].min() == 0 > tensors[points[0]].min()
    assert torch.relu(torch.ones(1)) == 1 and not any(part._forward_hooks for part in model.modules())


def test_a_pass_that_stops_still_counts_the_calls_of_its_blocks():
    """A net that calls its activation once more in training would be taught by another tensor in the first stage."""

    class TrainedOtherwise(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, values):
            values = self.first(values)
            if self.training:
                values = values + functional.relu(values)
            return self.second(functional.relu(values)).relu()

    model = TrainedOtherwise().eval()
    values = torch.ones(2, 4)
    points = resolve_boundaries(model, [":relu#2"], lambda: model(values))
    with Capture(model, points.values()) as capture:
        capture.run(lambda: model(values), stop=True)
        model.train()
        with pytest.raises(RuntimeError, match="one of 2 such calls, and this forward pass makes 3"):
            capture.run(lambda: model(values), stop=True)


def test_nets_without_calls_pay_nothing():
    """Watching functions costs time in every one of them."""
    model, watched = Net("separate"), []
    model.head.register_forward_hook(lambda *_: watched.append(torch._C._len_torch_function_stack()))
    with Capture(model, [CapturePoint("layers.0.relu1", "input")]) as capture:
        capture.run(lambda: model(images()))
    assert watched == [0]


# ---- Names ----


def test_what_is_named_is_the_same_in_every_spelling():
    """A plan that was written for separate modules, or by hand, is to mean what it says."""
    model = STYLES["shared"][0]
    second, only = CapturePoint("layers.1:relu#2", "input"), CapturePoint(":relu#1", "input")
    found = resolve_boundaries(
        model,
        ["layers.1:relu#2", "layers.1:relu#2:input", "layers.1", "relu", ":relu"],
        lambda: model(images()),
    )
    assert list(found.values()) == [second, second, second, only, only]
    assert found["layers.1"].calls == 2
    function = STYLES["function"][0]
    assert resolve_tensors(function, ["module.layers.1:F.relu#2"], lambda: function(images())) == {
        "module.layers.1:F.relu#2": CapturePoint("layers.1:relu#2", "output")
    }
    separate = Net("separate")
    points = resolve_boundaries(separate, ["layers.1:relu1", ":relu#1"], lambda: separate(images()))
    assert list(points.values()) == [CapturePoint("layers.1.relu1", "input"), CapturePoint("relu", "input")]


def test_a_shared_module_that_a_block_calls_once_goes_by_the_name_it_has_there():
    """It is one tensor, and a module of its own would have this name."""
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
    model = nn.Sequential(model, nn.Sequential(nn.Conv2d(3, 3, 1), model[1]))
    points = resolve_boundaries(model, ["1.1", "0"], lambda: model(images()))
    assert list(points.values()) == [CapturePoint("1:1#1", "input"), CapturePoint("0:1#1", "input")]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("layers.0:relu", r"is called 2 times; name one of its calls: \['layers.0:relu#1', 'layers.0:relu#2'\]"),
        ("layers.0:relu#3", r"makes no call 'layers.0:relu#3'.*\['layers.0:relu#1', 'layers.0:relu#2'\]"),
        ("layers.0:gelu#1", r"makes no call 'layers.0:gelu#1'.*close names: \['layers.0:relu#1'"),
        ("layers.0:relu#0", "must end in the number of a call, '#1' for the first"),
        ("layers.0:rellu#1", "must end in ':input'.*or a function .*close names: .*'relu'"),
        ("layer.0:relu#1", "has no module 'layer.0', which .* names as the caller; close names: .*'layers.0'"),
        ("layers.0:conv1#1", "calls no activation.*write 'layers.0:conv1#1:input'"),
        ("layers.0:bn2", "calls no activation"),
    ],
)
def test_a_call_that_is_not_made_is_refused_with_those_that_are(name, message):
    """The user cannot read these names in the code of the model."""
    model = STYLES["twice"][0]
    with pytest.raises(ValueError, match=message):
        resolve_boundaries(model, [name], lambda: model(images()))


def test_a_module_that_is_called_several_times_is_refused_with_its_calls():
    """What to write instead is all that the user wants to know."""
    model = STYLES["twice"][0]
    with (
        Capture(model, [CapturePoint("layers.0.relu", "input")]) as capture,
        pytest.raises(RuntimeError, match="called 2 times.*Name one of its calls: layers.0:relu#1, layers.0:relu#2"),
    ):
        capture.run(lambda: model(images()))


def test_a_call_in_a_block_that_runs_twice_is_refused():
    """It is made once in each of two forwards, and is two tensors."""
    block = Net("function").layers[0]
    model = nn.Sequential(nn.Conv2d(3, 4, 1), block, block)
    with pytest.raises(ValueError, match="'1' of Sequential runs 2 times in one forward pass with the same weights"):
        resolve_boundaries(model, ["1:relu#1"], lambda: model(images()))
    with (
        Capture(model, [CapturePoint("1:relu#1", "input")]) as capture,
        pytest.raises(RuntimeError, match="was made 2 times .* as '1' runs that often"),
    ):
        capture.run(lambda: model(images()))


def test_other_calls_than_when_they_were_named_are_an_error():
    """In training mode a block may call more, and the number would be that of another activation."""

    class More(Block):
        relu = staticmethod(torch.relu)

        def forward(self, tensor):
            return super().forward(self.relu(tensor) if self.training else tensor)

    model = nn.Sequential(nn.Conv2d(3, 4, 1), More(4))
    (point,) = resolve_boundaries(model.eval(), ["1:relu#2"], lambda: model(images())).values()
    with Capture(model, [point]) as capture:
        capture.probe(lambda: model(images()))
        with pytest.raises(RuntimeError, match="was one of 2 such calls, and this forward pass makes 3"):
            capture.run(lambda: model.train()(images()))


def test_what_an_activation_of_ones_own_returns_ends_a_block_if_it_is_its_activation():
    """A module that scales behind its activation gives another response, on whose side of 0 nothing lies."""

    class Scaled(Swish):
        def forward(self, tensor):
            return 2 * super().forward(tensor) - 1

    model = Net("shared", Swish)
    point = resolve_boundaries(model, ["layers.0"], lambda: model(images()))["layers.0"]
    assert point == CapturePoint("layers.0:relu#2", "input")
    scaled = Net("twice", Scaled)
    with pytest.raises(ValueError, match=r"does not come straight from an activation.*'layers.0:relu#2'"):
        resolve_boundaries(scaled, ["layers.0"], lambda: scaled(images()))


def test_a_part_of_the_name_of_a_function_does_not_hide_it():
    """Both are called `relu`; by one name they would be counted as one."""
    model = Net("twice")
    model.layers[0].last = torch.relu
    found = names(model)
    assert found[1:3] == ["layers.0.relu", "layers.0:F.relu#1"]
    for name in found[2:]:
        assert call_name(model, parse_call(model, name).call) == name
    assert parse_name(model, "layers.0:F.relu#1:output") == ("layers.0:F.relu#1", "output")
