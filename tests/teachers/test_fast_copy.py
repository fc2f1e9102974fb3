import contextlib
import functools
import logging

import pytest
import tiny
import torch
from torch import nn
from transformers import (
    EfficientNetConfig,
    EfficientNetForImageClassification,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    RegNetConfig,
    RegNetForImageClassification,
)

from hf_abkd.layers.capture import CapturePoint
from hf_abkd.layers.module_kinds import is_boundary_activation
from hf_abkd.teachers.fast_copy import SpeedUps, compiled, prepare
from hf_abkd.teachers.live import LiveTeacher, fingerprint

BOTH = SpeedUps(fold_batch_norm=True, channels_last=True)
NOTHING = SpeedUps(fold_batch_norm=False, channels_last=False, in_place=False)


def images(count=2, size=32):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def trained(model):
    """The model with statistics and factors of BatchNorm as after training: none of them 0 or 1."""
    torch.manual_seed(0)
    model.train()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
        for _ in range(20):
            model(torch.randn(8, 3, 32, 32))
    return model.eval()


def regnet():
    torch.manual_seed(0)
    return RegNetForImageClassification(
        RegNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], groups_width=4, num_labels=4)
    )


def mobilenet():
    torch.manual_seed(0)
    return MobileNetV2ForImageClassification(MobileNetV2Config(depth_multiplier=0.25, image_size=32, num_labels=4))


def efficientnet():
    torch.manual_seed(0)
    config = EfficientNetConfig(
        image_size=32,
        width_coefficient=0.25,
        depth_coefficient=0.1,
        in_channels=[32, 16],
        out_channels=[16, 24],
        kernel_sizes=[3, 5],
        strides=[1, 2],
        expand_ratios=[1, 6],
        num_block_repeats=[1, 2],
        depthwise_padding=[],
        hidden_dim=320,
        num_labels=4,
    )
    return EfficientNetForImageClassification(config)


class Net(nn.Module):
    """Every kind of convolution before a BatchNorm, in-place activations, and a residual that is added in place."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, bias=True, padding=1, padding_mode="reflect"), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, groups=8, padding=1), nn.BatchNorm2d(8, eps=0.1)
        self.conv3, self.bn3 = nn.Conv2d(8, 8, 3, groups=2, bias=False, padding=1), nn.BatchNorm2d(8, affine=False)
        self.act1, self.act2, self.act3 = (nn.ReLU(inplace=True) for _ in range(3))
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        stem = self.act1(self.bn1(self.conv1(x)))
        x = self.bn3(self.conv3(self.act2(self.bn2(self.conv2(stem)))))
        x += stem
        return self.head(self.act3(x).mean((2, 3)))


FAMILIES = {
    "resnet": (lambda: tiny.resnet(8), 7),
    "regnet": (regnet, 12),
    "mobilenet": (mobilenet, 52),
    "efficientnet": (efficientnet, 7),
    "plain": (Net, 3),
    "vit": (lambda: tiny.vit(16), 0),
}


def activations(model):
    return {
        f"{name}:{side}": CapturePoint(name, side)
        for name, module in model.named_modules()
        if is_boundary_activation(module)
        for side in ("input", "output")
    }


def live(model, points=(), speed_ups=None, batch=None, precision=contextlib.nullcontext):
    """An optimised teacher that selects these points, what it did, and what the plain one says."""
    batch = {"pixel_values": images(size=16 if hasattr(model, "vit") else 32) if batch is None else batch}
    teacher = LiveTeacher(model, precision)
    teacher.select(dict(points))
    plain = teacher.probe(batch)
    report = teacher.optimize(batch, dict(points), speed_ups)
    return teacher, report, plain, batch


# ---- The same numbers ----


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fast_teacher_says_the_same(family):
    """A target that is a little off is learnt as if it were right; nobody would see it."""
    make, count = FAMILIES[family]
    model = make().eval() if family == "vit" else trained(make())
    teacher, report, plain, batch = live(model, activations(model), BOTH)
    assert (f"{count} BatchNorm folded" in report) == (count > 0), report
    assert "channels_last" in report
    fast = teacher(batch)
    assert fast.keys() == plain.keys() and len(fast) > 4
    for name, expected in plain.items():
        spread = expected.std()
        # MobileNetV2 is deep and narrow, and its last maps have one pixel.
        close = (1e-3 if family == "mobilenet" else 1e-5) * spread
        assert (fast[name] - expected).abs().max() <= close, name
        flipped = (fast[name] > 0) != (expected > 0)
        assert not (flipped & (expected.abs() > 1e-5 * spread)).any(), name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fast_teacher_of_half_precision_says_nearly_the_same(family):
    """Many a teacher is stored in bfloat16; the products are rounded once more, and must not be worse than that."""
    make, count = FAMILIES[family]
    model = (make().eval() if family == "vit" else trained(make())).to(torch.bfloat16)
    teacher, report, plain, batch = live(model, activations(model), SpeedUps(fold_batch_norm=True))
    # Of MobileNetV2, plain bfloat16 is mostly rounding already: it may stay as it is.
    assert family in ("mobilenet", "vit") or f"{count} BatchNorm folded" in report
    fast = teacher(batch)
    for name, expected in plain.items():
        assert fast[name].dtype == torch.bfloat16
        assert (fast[name].float() - expected.float()).abs().max() <= 0.5 * expected.float().std(), name
    # The weights as they are do not need it.
    assert "folded" not in live(model, {}, SpeedUps())[1]


def test_precision_of_training_does_not_hide_mistakes_of_the_copy():
    """Under autocast everything differs by a percent, and a small mistake would pass for that."""
    model = trained(tiny.resnet(8))
    autocast = functools.partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    teacher, report, plain, batch = live(model, activations(model), BOTH, precision=autocast)
    assert float(report.split("deviation ")[1].split()[0]) < 1e-4
    with autocast():
        teacher.optimize(batch, activations(model), BOTH)
    assert float(teacher._fast.report.split("deviation ")[1].split()[0]) < 1e-4
    assert teacher(batch)["logits"].dtype == torch.bfloat16


def test_folding_is_done_in_double_precision():
    """A quotient of rounded factors is off by more than the sum that follows."""
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(3))).double()
    with torch.no_grad():
        model[0].weight.mul_(1e3)
        model[1].running_var.mul_(1e6)
    _, report, _, _ = live(model, {}, SpeedUps(fold_batch_norm=True, channels_last=False))
    assert float(report.split("deviation ")[1].split()[0]) < 1e-13


# ---- The teacher stays as it is ----


def test_the_teacher_of_the_user_is_left_as_it_was():
    """It is identified by its bytes, shared by other trainers, and saved by who trained it."""
    model = trained(Net())
    before, format_of = fingerprint(model), {n: (p.stride(), p.data_ptr()) for n, p in model.named_parameters()}
    kinds = {name: type(module) for name, module in model.named_modules()}
    teacher, report, _, batch = live(model, activations(model), BOTH)
    assert "3 BatchNorm folded, channels_last" in report
    teacher(batch)
    assert teacher.model is model and fingerprint(model) == before
    assert {n: (p.stride(), p.data_ptr()) for n, p in model.named_parameters()} == format_of
    assert {name: type(module) for name, module in model.named_modules()} == kinds
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    copied = teacher._fast.model
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in copied.modules())
    # What was not changed is not held twice.
    assert copied.head.weight is model.head.weight and copied.conv1 is not model.conv1
    assert [name for name, _ in copied.named_modules()] == list(kinds)
    assert isinstance(copied.bn1, nn.Identity)


def test_nothing_is_copied_if_nothing_is_changed():
    """A copy of a large teacher for nothing is memory that the student lacks."""
    model = tiny.vit()
    teacher, report, _, _ = live(model, {}, SpeedUps(fold_batch_norm=True))
    assert teacher._fast.model is model and report == "as it is"
    model = trained(Net())
    assert live(model, {}, NOTHING)[0]._fast.model is model


def test_plain_answers_stay_plain():
    """Wiring and the fingerprint of a cache are about the model that was given."""
    model = trained(Net())
    teacher, _, plain, batch = live(model, {"a": CapturePoint("act1", "input")}, BOTH)
    assert torch.equal(teacher.logits(batch), plain["logits"])
    assert torch.equal(teacher.probe(batch)["a"], plain["a"])


def test_a_second_preparation_sees_new_weights():
    """Folded weights of yesterday's teacher are another teacher."""
    model = trained(Net())
    teacher, _, _, batch = live(model, {}, BOTH)
    with torch.no_grad():
        model.conv1.weight.mul_(2)
    teacher.optimize(batch, {}, BOTH)
    torch.testing.assert_close(teacher(batch)["logits"], model(batch["pixel_values"]), atol=1e-4, rtol=0)


# ---- What cannot be folded ----


class Pieces(nn.Module):
    """A convolution and a BatchNorm, with something between or around them."""

    def __init__(self, between=lambda x: x, after=lambda conv, bn: bn):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.bn, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 4)
        self.between, self.after = between, after

    def forward(self, x):
        conv = self.conv(x)
        bn = self.bn(self.between(conv))
        return self.head(self.after(conv, bn).mean((2, 3)))


class Standardized(nn.Conv2d):
    def _conv_forward(self, input, weight, bias):
        return super()._conv_forward(input, weight / weight.std(), bias)


class Scaled(nn.Conv2d):
    def forward(self, input):
        return 2 * super().forward(input)


class ScaledNorm(nn.BatchNorm2d):
    def forward(self, input):
        return 2 * super().forward(input)


class Repeated(Pieces):
    def forward(self, x):
        return self.head((self.bn(self.conv(x)) + self.bn(self.conv(-x))).mean((2, 3)))


class SharedNorm(Pieces):
    def __init__(self):
        super().__init__()
        self.second = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.head((self.bn(self.conv(x)) * self.bn(self.second(x))).mean((2, 3)))


class AloneToo(Pieces):
    def forward(self, x):
        return self.head((self.bn(self.conv(x)) * self.conv(-x)).mean((2, 3)))


class TwoNorms(Pieces):
    def __init__(self):
        super().__init__()
        self.other = nn.BatchNorm2d(4)

    def forward(self, x):
        conv = self.conv(x)
        return self.head((self.bn(conv) * self.other(conv)).mean((2, 3)))


def with_part(name, part):
    model = Pieces()
    setattr(model, name, part)
    return model


def without_statistics():
    return with_part("bn", nn.BatchNorm2d(4, track_running_stats=False))


def weight_norm():
    return with_part("conv", nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)))


UNFOLDABLE = {
    "changed in between": lambda: Pieces(between=lambda x: x + 1),
    "changed in place": lambda: Pieces(between=lambda x: x.relu_()),
    "no statistics": without_statistics,
    "weight norm": weight_norm,
    "standardized weights": lambda: with_part("conv", Standardized(3, 4, 3)),
    "another convolution": lambda: with_part("conv", Scaled(3, 4, 3)),
    "another norm": lambda: with_part("bn", ScaledNorm(4)),
    "called twice": Repeated,
    "a norm called twice": SharedNorm,
    "a convolution called twice": AloneToo,
    "two norms": TwoNorms,
}


@pytest.mark.parametrize("kind", UNFOLDABLE)
def test_what_cannot_be_folded_is_left_alone(kind, caplog):
    """Each of these gives other numbers when folded."""
    model = trained(UNFOLDABLE[kind]())
    with caplog.at_level(logging.INFO, "hf_abkd"):
        teacher, report, plain, batch = live(model, {}, SpeedUps(fold_batch_norm=True, channels_last=False))
    assert report == "as it is" and teacher._fast.model is model
    # Seen beforehand: one layer of this kind must not keep all others from being folded.
    assert "runs without" not in caplog.text


@pytest.mark.parametrize("point", [CapturePoint("conv2", "output"), CapturePoint("bn2", "input")])
def test_a_tensor_between_the_two_is_kept_if_it_is_wanted(point):
    """Folded, it would be the response behind the BatchNorm; all others are folded all the same."""
    model = trained(Net())
    teacher, report, plain, batch = live(model, {"a": point}, SpeedUps(channels_last=False))
    assert "2 BatchNorm folded" in report
    torch.testing.assert_close(teacher(batch), plain, atol=1e-5, rtol=0)
    teacher, report, plain, batch = live(model, {"a": CapturePoint("bn2", "output")}, SpeedUps(channels_last=False))
    assert "3 BatchNorm folded" in report
    torch.testing.assert_close(teacher(batch), plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("wanted", "level"), [(None, "INFO"), (True, "WARNING")])
def test_a_copy_that_says_something_else_is_dropped_and_named(wanted, level, caplog):
    """The output of the convolution is used beside BatchNorm, which only the numbers show."""
    model = trained(Pieces(after=lambda conv, bn: conv + bn))
    with caplog.at_level(logging.INFO, "hf_abkd"):
        teacher, report, plain, batch = live(model, {}, SpeedUps(fold_batch_norm=wanted, channels_last=False))
    record = next(r for r in caplog.records if "runs without fold_batch_norm: tensors would differ by" in r.message)
    assert record.levelname == level
    assert report == "as it is" and torch.equal(teacher(batch)["logits"], plain["logits"])


def test_a_copy_that_gives_no_numbers_is_dropped():
    """NaN is not larger than any tolerance."""
    model = trained(Pieces())
    with torch.no_grad():
        model.bn.running_var.fill_(-1.0)
    assert live(model, {}, SpeedUps(fold_batch_norm=True, channels_last=False))[1] == "as it is"


def hooked():
    model = Pieces()
    model.head.register_forward_hook(lambda *_: None)
    return model


def pre_hooked():
    model = Pieces()
    model.conv.register_forward_pre_hook(lambda *_: None)
    return model


def replaced():
    model = Pieces()
    conv = model.conv
    conv.forward = lambda x: nn.Conv2d.forward(conv, x)
    return model


@pytest.mark.parametrize("make", [hooked, pre_hooked, replaced])
def test_a_model_with_hooks_runs_itself(make, caplog):
    """A hook of the user's would see a copy, and a replaced forward would run the original's layers."""
    with caplog.at_level(logging.INFO, "hf_abkd"):
        teacher, report, _, _ = live(trained(make()), {}, SpeedUps(fold_batch_norm=True, channels_last=True))
    assert report == "as it is" and "has hooks or a replaced forward" in caplog.text


def test_a_model_that_cannot_be_copied_runs_itself(caplog):
    """A lock, or a stream, is a part of some remote models."""

    class Stubborn(Pieces):
        def __deepcopy__(self, memo):
            raise TypeError("cannot pickle '_thread.lock' object")

    with caplog.at_level(logging.INFO, "hf_abkd"):
        assert live(trained(Stubborn()), {}, BOTH)[1] == "as it is"
    assert "cannot pickle" in caplog.text


def test_a_model_that_looks_into_its_batch_norm_runs_itself():
    """An identity has no weight."""

    class Reads(Pieces):
        def forward(self, x):
            return super().forward(x) + self.bn.bias.sum()

    assert live(trained(Reads()), {}, SpeedUps(fold_batch_norm=True, channels_last=False))[1] == "as it is"


def test_a_model_under_inference_mode_runs_itself():
    """What happens in place between two layers cannot be seen there."""

    class Fast(Pieces):
        @torch.inference_mode()
        def forward(self, x):
            return super().forward(x)

    teacher, report, plain, batch = live(Fast(), {}, SpeedUps(channels_last=False))
    assert report == "as it is" and torch.equal(teacher(batch)["logits"], plain["logits"])


def test_other_owners_of_a_weight_keep_it():
    """Tied convolutions have one weight; only one of them has a BatchNorm behind it."""

    class Tied(Pieces):
        def __init__(self):
            super().__init__()
            self.second = nn.Conv2d(3, 4, 3)
            self.second.weight = self.conv.weight

        def forward(self, x):
            return self.head((self.bn(self.conv(x)) + self.second(x)).mean((2, 3)))

    teacher, report, plain, batch = live(trained(Tied()), {}, SpeedUps(channels_last=False))
    assert "1 BatchNorm folded" in report
    torch.testing.assert_close(teacher(batch)["logits"], plain["logits"], atol=1e-5, rtol=0)


def test_a_batch_norm_of_two_names_is_folded_under_both():
    """Called by the other name, it would be applied twice."""

    class Aliased(Pieces):
        def __init__(self):
            super().__init__()
            self.alias = self.bn

        def forward(self, x):
            return self.head(self.alias(self.conv(x)).mean((2, 3)))

    teacher, report, plain, batch = live(trained(Aliased()), {}, SpeedUps(channels_last=False))
    assert "1 BatchNorm folded" in report
    torch.testing.assert_close(teacher(batch)["logits"], plain["logits"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("dimensions", [1, 3])
def test_convolutions_of_other_dimensions_are_folded(dimensions):
    """Tokenisers convolve in one dimension, videos in three."""
    kinds = {1: (nn.Conv1d, nn.BatchNorm1d), 3: (nn.Conv3d, nn.BatchNorm3d)}[dimensions]
    shape = (2, 3, *[6] * dimensions)

    class Shaped(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.bn = kinds[0](3, 4, 3), kinds[1](4)

        def forward(self, x):
            return self.bn(self.conv(x)).flatten(2).square().mean(2)

    model = Shaped().train()
    model(torch.randn(shape))
    teacher, report, plain, batch = live(model.eval(), {}, BOTH, batch=torch.randn(shape))
    assert "1 BatchNorm folded" in report
    torch.testing.assert_close(teacher(batch)["logits"], plain["logits"], atol=1e-5, rtol=0)


# ---- Channels last ----


def test_values_that_leave_a_channels_last_teacher_lie_as_ever():
    """Sums of tensors that lie differently are slow, and who views memory would mix up the units; sides are let be."""
    model = trained(Net())
    points = {"a": CapturePoint("act1", "input"), "b": CapturePoint("act2", "input")}
    teacher, report, _, batch = live(model, points, BOTH)
    assert "channels_last" in report
    inside = []
    teacher._fast.model.conv2.register_forward_hook(lambda *call: inside.append(call[-1]))
    teacher.select(points, boundaries=["b"])
    said = teacher(batch)
    assert inside[0].is_contiguous(memory_format=torch.channels_last) and not inside[0].is_contiguous()
    assert said["logits"].is_contiguous() and said["a"].is_contiguous()
    assert said["b"].is_contiguous(memory_format=torch.channels_last) and said["b"].dtype == torch.bool


def wide():
    return nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 512, 3))


@pytest.mark.parametrize(
    ("make", "chosen"),
    [
        (lambda: tiny.resnet(8), True),
        (mobilenet, True),
        (lambda: nn.Sequential(nn.Conv2d(3, 512, 1), nn.Conv2d(512, 512, 3, groups=512), nn.Conv2d(512, 9, 3)), True),
        (wide, False),
        (lambda: tiny.vit(), False),
        (lambda: nn.Linear(2, 2), False),
    ],
)
def test_channels_last_is_chosen_where_it_was_measured_to_be_faster(make, chosen):
    """Wide convolutions on small maps were slower with it on a CPU."""
    model = make().eval()

    batch = torch.randn(2, 2) if isinstance(model, nn.Linear) else images(size=16)

    def run(model, _):
        output = model(batch)
        return output if isinstance(output, torch.Tensor) else output.logits

    with torch.no_grad():
        assert prepare(model, run, []).channels_last is chosen
        assert prepare(model, run, [], speed_ups=SpeedUps(channels_last=False)).channels_last is False


# ---- Compiled ----


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that were compiled; by a backend that needs no C++ compiler."""
    torch._dynamo.reset()
    found = []

    def backend(graph, example_inputs):
        found.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    return found


@pytest.mark.parametrize("family", ["resnet", "plain", "vit"])
def test_a_compiled_teacher_says_the_same_of_batches_of_any_size(family, graphs):
    """The last batch is smaller: compiling anew for every size would take longer than it saves."""
    model = FAMILIES[family][0]().eval() if family == "vit" else trained(FAMILIES[family][0]())
    points = {name: point for name, point in activations(model).items() if point.side == "input"}
    teacher, report, _, batch = live(model, points, SpeedUps(compile=True))
    assert "compiled" in report
    plain = LiveTeacher(model)
    plain.select(points)
    plain.probe(batch)
    size = batch["pixel_values"].shape[-1]
    for count in (4, 4, 3, 7, 5, 6, 4):
        inputs = {"pixel_values": torch.randn(count, 3, size, size)}
        torch.testing.assert_close(teacher(inputs), plain(inputs), atol=1e-4, rtol=1e-4)
    assert 1 <= len(graphs) <= 2


def test_selections_of_a_compiled_teacher_do_not_mix(graphs):
    """torch does not look at hooks again: a stage would get the tensors of the one before."""
    model = trained(Net())
    points = {name: CapturePoint(name, "input") for name in ("act1", "act2")}
    teacher, _, _, batch = live(model, points, SpeedUps(compile=True))
    plain = LiveTeacher(model)
    plain.select(points)
    plain.probe(batch)
    first = {"act1": points["act1"]}
    selections = [
        (points, {}),
        (first, {"logits": False}),
        (first, {}),
        (first, {"logits": False, "boundaries": ["act1"]}),
        ({"act1": points["act2"]}, {"logits": False}),
        (points, {"boundaries": ["act2"]}),
        ({}, {}),
    ]
    for _ in range(2):
        for chosen, settings in selections:
            teacher.select(chosen, **settings)
            plain.select(chosen, **settings)
            said, expected = teacher(batch), plain(batch)
            assert {n: t.dtype for n, t in said.items()} == {n: t.dtype for n, t in expected.items()}
            torch.testing.assert_close(said, expected, atol=1e-4, rtol=1e-4)
    assert len(graphs) == len(selections)


def test_a_compiled_teacher_without_logits_does_not_compute_them(graphs):
    """What is not returned is left out by the compiler; returned, it would have to be computed."""
    model = trained(Net())
    teacher, _, _, batch = live(model, {"a": CapturePoint("act1", "input")}, SpeedUps(compile=True))
    teacher.select({"a": CapturePoint("act1", "input")}, logits=False)
    teacher(batch)
    (returned,) = [node for node in graphs[0].graph.nodes if node.op == "output"]
    assert len(returned.args[0]) == 1


def test_a_second_preparation_is_compiled_anew(graphs):
    """The folded weights of the first are constants of what was compiled."""
    model = trained(Net())
    teacher, _, _, batch = live(model, {}, SpeedUps(compile=True))
    before = teacher(batch)["logits"]
    with torch.no_grad():
        model.conv1.weight.mul_(2)
    teacher.optimize(batch, {}, SpeedUps(compile=True))
    after = teacher(batch)["logits"]
    assert not torch.allclose(before, after, atol=1e-2)
    torch.testing.assert_close(after, model(batch["pixel_values"]), atol=1e-4, rtol=0)
    teacher.optimize(batch, {}, NOTHING)
    assert torch.equal(teacher(batch)["logits"], model(batch["pixel_values"]))


def test_an_error_of_the_compiler_says_what_to_do(graphs):
    """A page of internals does not tell that a setting asked for it."""

    def untraceable(x):
        torch._dynamo.graph_break()
        return x

    with pytest.raises(RuntimeError, match=r"the teacher cannot be compiled \(.+\).*C\+\+.*teacher_compile=False"):
        compiled(untraceable)(torch.ones(1))


def test_functions_of_one_place_are_compiled_apart(graphs):
    """Their hooks differ, which torch does not see."""

    def make():
        return compiled(lambda x: x + 1)

    first, second = make(), make()
    for function in (first, second, first):
        assert torch.equal(function(torch.ones(2)), torch.full((2,), 2.0))
    assert len(graphs) == 2


def test_linear_layers_in_eight_bits_say_nearly_the_same():
    """Answers that are off by their whole spread would teach noise; the teacher itself must stay in float32."""
    teacher = tiny.vit(32, seed=1).eval()
    point = CapturePoint("vit.layers.1.mlp.activation_fn", "input")
    before = fingerprint(teacher)
    fast, report, plain, batch = live(teacher, {"layer": point}, SpeedUps(quantize=True))
    other = fast(batch)
    assert "linear layers in 8 bits" in report and fingerprint(teacher) == before
    for name, one in plain.items():
        assert 0 < (one - other[name]).square().mean().sqrt() / one.std() < 0.25
        # Responses near 0 may change their side.
        far = one.abs() > 0.5 * one.std()
        assert ((one > 0) == (other[name] > 0))[far].float().mean() > 0.99


class Convolutions(nn.Module):
    """Nothing that could be computed in 8 bits."""

    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 4, 3), nn.ReLU()

    def forward(self, pixel_values):
        return self.act(self.conv(pixel_values)).mean((2, 3))


def test_eight_bits_are_refused_where_they_cannot_be():
    """A setting that is silently without effect looks like one that does not pay."""
    with pytest.raises(ValueError, match="linear layers in float32 on a CPU, and the teacher Convolutions has none"):
        live(Convolutions().eval(), speed_ups=SpeedUps(quantize=True))
    with pytest.raises(ValueError, match="has none there"):
        live(tiny.vit(16).bfloat16(), speed_ups=SpeedUps(quantize=True))


def test_eight_bits_that_say_something_else_are_refused(monkeypatch):
    """A teacher that was ruined by rounding still has logits."""
    monkeypatch.setattr("hf_abkd.teachers.fast_copy._QUANTIZED_TOLERANCE", 1e-6)
    with pytest.raises(ValueError, match="in 8 bits the teacher ViTForImageClassification says something else"):
        live(tiny.vit(32, seed=1).eval(), speed_ups=SpeedUps(quantize=True))
