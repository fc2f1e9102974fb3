import copy
import gc
import weakref

import pytest
import tiny
import torch
from torch import nn
from transformers import (
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    RegNetConfig,
    RegNetForImageClassification,
)
from transformers.activations import ACT2FN

from hf_abkd.layers.boundary_points import resolve_boundaries
from hf_abkd.layers.capture import Capture, CapturePoint, refuse_compiled
from hf_abkd.layers.module_kinds import is_boundary_activation
from hf_abkd.layers.module_names import find_module, parse_name
from hf_abkd.layers.passed_tensors import only_tensor
from hf_abkd.models.kept_state import evaluating
from hf_abkd.objectives import ActivationBoundary, CrossEntropy
from hf_abkd.stages.term import Term
from hf_abkd.training.terms.run_term import RunTerm
from hf_abkd.training.wiring.wiring import wire


def images(count=2, seed=0):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


class Plain(nn.Module):
    """A residual net in the style of torchvision: in-place activations, and a residual that is added in place."""

    def __init__(self, inplace=True):
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.bn1, self.relu1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace)
        self.conv2, self.bn2, self.relu2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
        self.inplace = inplace

    def forward(self, pixel_values):
        stem = self.relu1(self.bn1(self.conv1(pixel_values)))
        features = self.bn2(self.conv2(stem))
        if self.inplace:
            features += stem
        else:
            features = features + stem
        return self.head(self.relu2(features))


def resnet():
    return tiny.resnet()


def regnet():
    torch.manual_seed(0)
    config = RegNetConfig(
        embedding_size=4, hidden_sizes=[8, 16], depths=[1, 2], groups_width=4, layer_type="x", num_labels=4
    )
    return RegNetForImageClassification(config)


def mobilenet():
    torch.manual_seed(0)
    return MobileNetV2ForImageClassification(MobileNetV2Config(depth_multiplier=0.25, image_size=16, num_labels=4))


def in_place(model):
    """The same model with every activation that can do so working in place."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, (nn.ReLU, nn.ReLU6)):
            module.inplace = True
    return model.eval()


def out_of_place(model):
    """The same model with neither in-place activations nor in-place residual sums."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
        if hasattr(module, "shortcut") and hasattr(module, "layer"):
            module.forward = _residual_sum(module)
    return model.eval()


def _residual_sum(layer):
    return lambda hidden: layer.activation(layer.layer(hidden) + layer.shortcut(hidden))


def negatives(tensor):
    return (tensor < 0).float().mean().item()


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


# ---- Names ----


def test_a_wrong_name_is_refused_with_close_ones():
    """A hook on nothing captures nothing: the term would be silently absent."""
    with pytest.raises(ValueError, match=r"no module 'resnet.encoder.stage.1'.*'resnet.encoder.stages.1'"):
        Capture(resnet(), [CapturePoint("resnet.encoder.stage.1", "output")])
    with pytest.raises(ValueError, match=r"no module 'encoder.stages.1'.*'resnet.encoder.stages.1'"):
        find_module(resnet(), "encoder.stages.1")
    with pytest.raises(ValueError, match=r"List them all with"):
        find_module(resnet(), "xyz")
    with pytest.raises(ValueError, match="no module ''"):
        parse_name(resnet(), ":input")


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrappers_do_not_matter(prefix):
    """Names printed from a model under DDP or torch.compile carry prefixes that the plain model does not have."""
    model = resnet()
    assert parse_name(model, f"{prefix}resnet.encoder.stages.0") == ("resnet.encoder.stages.0", None)
    assert parse_name(model, f"{prefix}resnet.encoder.stages.0:input") == ("resnet.encoder.stages.0", "input")


def test_a_model_with_a_part_named_module_keeps_its_names():
    """An averaged teacher (`AveragedModel`) is such a model: stripping the prefix made its layers unreachable."""
    model = torch.optim.swa_utils.AveragedModel(resnet())
    assert parse_name(model, "module.resnet.encoder.stages.0:output") == ("module.resnet.encoder.stages.0", "output")
    with pytest.raises(ValueError, match="close names: .*'module.resnet.encoder.stages.0'"):
        parse_name(model, "resnet.encoder.stages.0")


@pytest.mark.parametrize("side", ["inputs", "", "Output", "out:put"])
def test_a_wrong_side_is_refused(side):
    """Taken for the default, the other tensor would be trained on."""
    with pytest.raises(ValueError, match="must end in ':input', ':output' or no side"):
        parse_name(resnet(), f"resnet:{side}")


# ---- Compiled models ----


def compiled_parts():
    whole = torch.compile(resnet(), backend="eager")
    called = resnet()
    called.compile(backend="eager")
    part = resnet()
    part.resnet.encoder = torch.compile(part.resnet.encoder, backend="eager")
    called_part = resnet()
    called_part.resnet.encoder.compile(backend="eager")
    return {"whole": whole, "called": called, "part": part, "called part": called_part}


@pytest.mark.parametrize("kind", ["whole", "called", "part", "called part"])
def test_hooks_on_a_compiled_model_are_refused(kind):
    """torch ignores hooks that come after compiling, without a word: the capture would hold nothing."""
    model = compiled_parts()[kind]
    with pytest.raises(TypeError, match="is compiled already.*torch_compile=True"):
        Capture(model, [])
    with pytest.raises(TypeError, match=r"'resnet\.encoder'" if "part" in kind else "(root)"):
        refuse_compiled(model)


def test_a_compiled_function_inside_is_noticed_when_it_swallows_a_hook():
    """A compiled `forward` cannot be seen from outside; what it hides must at least not be missing in silence."""
    torch._dynamo.reset()
    model = Plain(inplace=False).eval()
    inner = model.relu1
    compiled = torch.compile(lambda tensor: inner(tensor), backend="eager")
    with torch.no_grad():
        compiled(model.bn1(model.conv1(images())))
    model.relu1 = nn.Identity()
    model.relu1.forward = compiled
    model.inside = inner
    with (
        torch.no_grad(),
        Capture(model, [CapturePoint("inside", "output")]) as capture,
        pytest.raises(RuntimeError, match="'inside' of Plain was not called, or was called inside a part that was"),
    ):
        capture.run(lambda: model(images()))


# ---- What is recorded ----


def test_records_inputs_and_outputs_of_one_pass():
    """Input and output confused, or a stale tensor, trains on something else than was asked for."""
    model = Plain(inplace=False).eval()
    points = [CapturePoint("bn1", "output"), CapturePoint("relu1", "input"), CapturePoint("relu1", "output")]
    with Capture(model, points) as capture:
        output, tensors = capture.run(lambda: model(images()))
    expected = model.bn1(model.conv1(images()))
    assert torch.equal(output, model(images()))
    assert torch.equal(tensors[points[0]], expected)
    assert torch.equal(tensors[points[1]], expected)
    assert torch.equal(tensors[points[2]], expected.relu())


def test_inputs_given_by_keyword_are_recorded():
    """Hugging Face models pass hidden states by keyword in places."""

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(2, 2)

        def forward(self, tensor):
            return self.inner(input=tensor)

    model = Outer()
    point = CapturePoint("inner", "input")
    with Capture(model, [point]) as capture:
        assert torch.equal(capture.run(lambda: model(torch.ones(1, 2)))[1][point], torch.ones(1, 2))


def test_gradients_flow_through_what_is_recorded():
    """A detached capture would train nothing but connectors."""
    model = in_place(Plain())
    point = CapturePoint("bn2", "output")
    with Capture(model, [point]) as capture:
        capture.probe(lambda: model(images()))
        capture.run(lambda: model(images()))[1][point].square().sum().backward()
    reference = out_of_place(Plain())
    with Capture(reference, [point]) as capture:
        capture.run(lambda: reference(images()))[1][point].square().sum().backward()
    assert reference.conv1.weight.grad.abs().sum() > 0
    assert torch.equal(model.conv1.weight.grad, reference.conv1.weight.grad)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.idle, self.pair = nn.Linear(2, 2), nn.Linear(2, 2), Pair()

    def forward(self, tensor):
        self.pair(tensor)
        return self.linear(self.linear(tensor))


class Pair(nn.Module):
    def forward(self, tensor):
        return tensor, tensor + 1


class Wrapped(nn.Module):
    def forward(self, tensor):
        return {"features": tensor, "name": "x", "none": None}


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            "linear",
            "'linear' of Twice was called 2 times, so its tensor is not one.*one of its calls: :linear#1, :linear#2",
        ),
        ("idle", "'idle' of Twice was not called"),
        ("pair", "'pair:output' of Twice holds 2 tensors, and one is needed"),
    ],
)
def test_no_tensor_or_several_are_refused(module, message):
    """The first of two calls, or the first of two tensors, is a guess that nobody sees."""
    model = Twice()
    with Capture(model, [CapturePoint(module, "output")]) as capture, pytest.raises(RuntimeError, match=message):
        capture.run(lambda: model(torch.ones(1, 2)))
    assert hooks(model) == 0


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (torch.ones(1), True),
        ((torch.ones(1), None), True),
        ([torch.ones(1)], True),
        ({"a": torch.ones(1), "b": 2}, True),
        ((torch.ones(1), torch.ones(1)), False),
        ((), False),
        (None, False),
        ("text", False),
    ],
)
def test_one_tensor_is_taken_out_of_what_modules_return(value, found):
    """Blocks return tuples and model outputs; only one tensor in them is unambiguous."""
    if found:
        assert torch.equal(only_tensor(value, "block", nn.Module()), torch.ones(1))
    else:
        with pytest.raises(RuntimeError, match="'block' of Module holds [02] tensors, and one is needed"):
            only_tensor(value, "block", nn.Module())


def test_running_without_hooks_is_refused():
    """It would return an empty capture."""
    model = Plain()
    capture = Capture(model, [CapturePoint("bn1", "output")])
    with pytest.raises(RuntimeError, match="call `attach` before `run`"):
        capture.run(lambda: model(images()))
    capture.attach().attach()
    assert hooks(model) == 1
    capture.detach()
    assert hooks(model) == 0


# ---- What is left behind ----


def test_no_hook_and_no_tensor_is_left_after_an_exception():
    """A hook that stays records every later pass; a tensor that stays holds a whole graph in memory."""
    model = Plain()

    def failing():
        model(images())
        raise KeyError("stop")

    capture = Capture(model, [CapturePoint("bn1", "output"), CapturePoint("relu1", "input")])
    with pytest.raises(KeyError, match="stop"), capture:
        capture.run(failing)
    assert hooks(model) == 0
    assert not capture._tensors and not capture._armed
    with pytest.raises(KeyError, match="stop"):
        resolve_boundaries(model, ["bn1", "head"], failing)
    assert hooks(model) == 0


def test_nothing_is_kept_after_the_step():
    """Features of a large model that outlive their step are the difference between running and out of memory."""
    model = Plain(inplace=False)
    point = CapturePoint("bn1", "output")
    with Capture(model, [point]) as capture:
        tensors = capture.run(lambda: model(images()))[1]
        alive = weakref.ref(tensors[point])
        assert alive() is not None
        del tensors
        gc.collect()
        assert alive() is None
        assert not capture._tensors and not capture._versions and not capture._counts


def test_passes_outside_of_run_are_not_recorded():
    """An evaluation between two steps must leave nothing behind, and a smaller last batch must fit."""
    model = Plain(inplace=False)
    point = CapturePoint("bn1", "output")
    with Capture(model, [point]) as capture:
        assert capture.run(lambda: model(images(4)))[1][point].shape[0] == 4
        with evaluating(model), torch.no_grad():
            model(images(8))
            model(images(8))
        assert not capture._tensors
        tensor = capture.run(lambda: model(images(3)))[1][point]
    assert tensor.shape[0] == 3 and tensor.requires_grad


def test_modes_are_put_back_module_by_module():
    """A frozen BatchNorm that is put into training mode moves its statistics."""
    model = Plain().train()
    model.bn1.eval()
    with pytest.raises(KeyError), evaluating(model):
        assert not any(module.training for module in model.modules())
        raise KeyError
    assert model.training and model.bn2.training and not model.bn1.training


def test_recomputation_of_checkpointed_layers_does_not_count():
    """Backward runs the layers again: a second record would be an error, or stale in the next step."""
    features, gradients = {}, {}
    point = CapturePoint("vit.layers.0.mlp.activation_fn", "input")
    for checkpointed in (False, True):
        model = tiny.vit(hidden_dropout_prob=0.0).train()
        if checkpointed:
            model.activation_checkpointing_enable({"use_reentrant": False})
        calls = []
        model.vit.layers[0].mlp.activation_fn.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        with Capture(model, [point], overwritten=[point]) as capture:
            for _ in range(2):
                model.zero_grad()
                output, tensors = capture.run(lambda model=model: model(pixel_values=images()))
                (output.logits.square().sum() + tensors[point].square().sum()).backward()
                assert not capture._tensors
        assert len(calls) == (4 if checkpointed else 2), "the layer was not run again in backward"
        features[checkpointed] = tensors[point].detach()
        gradients[checkpointed] = model.vit.layers[0].mlp.fc1.weight.grad
    assert torch.equal(features[False], features[True])
    assert gradients[False].abs().sum() > 0
    torch.testing.assert_close(gradients[False], gradients[True])


# ---- In-place operations ----


@pytest.mark.parametrize("make", [Plain, resnet, regnet, mobilenet])
def test_what_is_overwritten_in_place_is_captured_as_it_was(make):
    """After an in-place ReLU no negative value is left: the student's boundaries would all look satisfied."""
    model, reference = in_place(make()), out_of_place(make())
    named = list(model.named_modules())
    points = [CapturePoint(name, "input") for name, module in named if is_boundary_activation(module)]
    points += [CapturePoint(name, "output") for name, module in named if isinstance(module, nn.BatchNorm2d)]
    assert len(points) >= 4
    with Capture(reference, points) as capture:
        expected = capture.run(lambda: reference(images()))[1]
        assert not capture._changed()
    with Capture(model, points) as capture:
        with pytest.raises(RuntimeError, match="overwritten in place after they were captured. Call `probe`"):
            capture.run(lambda: model(images()))
        probed = capture.probe(lambda: model(images()))
        assert capture.overwritten
        captured = capture.run(lambda: model(images()))[1]
    for point in points:
        assert 0.05 < negatives(expected[point]) < 0.95, point
        assert negatives(captured[point]) == negatives(expected[point]), point
        assert torch.equal(captured[point], expected[point]), point
        assert torch.equal(probed[point], expected[point]), point


@pytest.mark.parametrize("make", [resnet, regnet])
def test_the_residual_sum_of_hugging_face_models_is_found(make):
    """They add the residual into the last normalisation's output even without any in-place activation."""
    model = make().eval()
    last = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)][-1]
    with Capture(model, [CapturePoint(last, "output")]) as capture:
        capture.probe(lambda: model(images()))
        assert capture.overwritten == {CapturePoint(last, "output")}


def test_only_what_is_overwritten_is_copied():
    """A copy of every feature would double the memory of captures for nothing."""
    model = out_of_place(Plain())
    point = CapturePoint("bn1", "output")
    seen = []
    model.bn1.register_forward_hook(lambda *call: seen.append(call[-1]))
    with Capture(model, [point]) as capture:
        capture.probe(lambda: model(images()))
        assert capture.run(lambda: model(images()))[1][point] is seen[-1]


def test_overwriting_in_training_mode_only_is_an_error():
    """An in-place dropout does nothing in the probe's eval mode: it must not zero features unseen in training."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5, inplace=True))
    point = CapturePoint("0", "output")
    with Capture(model, [point]) as capture:
        with evaluating(model):
            capture.probe(lambda: model(torch.ones(8, 4)))
        with pytest.raises(RuntimeError, match="in training mode only .*set `inplace=False`"):
            capture.run(lambda: model(torch.ones(8, 4)))


def test_compiled_captures_are_copies():
    """A compiler sees through the alias: without a copy it returns what the later operation left."""
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5, inplace=True))
    point = CapturePoint("0", "output")
    with Capture(model, [point]) as capture:
        compiled = torch.compile(lambda x: capture.run(lambda: model(x))[1][point], backend="aot_eager", fullgraph=True)
        captured = compiled(torch.ones(8, 4))
    torch.testing.assert_close(captured, model[0](torch.ones(8, 4)))


def test_captures_under_inference_mode_are_copies():
    """Tensors made there do not count their changes: an overwritten one could not be told."""
    model = in_place(Plain())
    point = CapturePoint("bn2", "output")
    with Capture(model, [point]) as capture, torch.inference_mode():
        captured = capture.run(lambda: model(images()))[1][point]
    reference = out_of_place(Plain())
    with Capture(reference, [point]) as capture:
        assert torch.equal(captured, capture.run(lambda: reference(images()))[1][point])


def test_what_is_captured_under_inference_mode_may_be_learnt_from():
    """A tensor of inference mode that autograd saves is an error in the student's backward pass."""
    model = in_place(Plain())
    points = [CapturePoint("bn2", "output"), CapturePoint("relu1", "input")]
    with Capture(model, points, signs=points[1:]) as capture, torch.inference_mode():
        captured = capture.run(lambda: model(images()))[1]
    for tensor in captured.values():
        assert not tensor.is_inference()
        student = torch.ones(tensor.shape, requires_grad=True)
        (student * tensor).sum().backward()
        assert student.grad.abs().sum() > 0


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_signs_are_those_before_an_operation_in_place(mode):
    """They need no probe: nothing overwrites them."""
    point = CapturePoint("bn2", "output")
    reference = out_of_place(Plain())
    with Capture(reference, [point]) as capture:
        expected = capture.run(lambda: reference(images()))[1][point]
    model = in_place(Plain())
    with Capture(model, [point], signs=[point]) as capture, mode():
        signs = capture.run(lambda: model(images()))[1][point]
    assert signs.dtype == torch.bool and torch.equal(signs, expected > 0)
    assert 0.05 < signs.float().mean() < 0.95


# ---- Passes that are left early ----


def test_a_pass_is_left_when_all_is_recorded():
    """What comes behind the last tensor is time for nothing; what comes before it is not."""
    model = out_of_place(Plain())
    points = [CapturePoint("relu1", "input"), CapturePoint("bn1", "output")]
    called = []
    for name in ("relu1", "conv2", "head"):
        model.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: called.append(name))
    with Capture(model, points) as capture:
        output, tensors = capture.run(lambda: model(images()), stop=True)
        assert output is None and called == ["relu1"]
        assert torch.equal(tensors[points[0]], model.bn1(model.conv1(images())))
        tensors[points[0]].sum().backward()
        assert model.conv1.weight.grad.abs().sum() > 0
        # The next pass is a whole one again.
        output, _ = capture.run(lambda: model(images()))
        assert output.shape == (2, 4) and called[-1] == "head"
    with Capture(model, []) as capture:
        called.clear()
        assert capture.run(lambda: model(images()), stop=True) == (None, {}) and called[-1] == "head"


def test_a_model_that_catches_exceptions_is_left_all_the_same():
    """Some models try a fast kernel first, and fall back on any exception: they would run everything twice."""

    class Careful(Plain):
        def forward(self, pixel_values):
            try:
                return super().forward(pixel_values)
            except Exception:  # noqa: BLE001
                return super().forward(-pixel_values)

    model = out_of_place(Careful())
    point = CapturePoint("bn1", "output")
    with Capture(model, [point]) as capture:
        assert torch.equal(capture.run(lambda: model(images()), stop=True)[1][point], model.bn1(model.conv1(images())))


def test_only_its_own_stop_ends_a_pass():
    """A student that runs inside a pass of another model must not end that pass."""
    outer, inner = out_of_place(Plain()), out_of_place(Plain())
    first, second = Capture(outer, [CapturePoint("bn1", "output")]), Capture(inner, [CapturePoint("bn1", "output")])

    def both():
        # Armed inside the other's pass, and left by an exception that is not the other's.
        first._record(CapturePoint("bn1", "output"), images())

    first._stopping = first._armed = True
    with second, pytest.raises(BaseException, match="all tensors are recorded"):
        second.run(both, stop=True)
    assert not second._armed and not second._tensors


def test_nothing_outlives_a_pass_that_was_left():
    """The frames of a stopped pass hold features and hooks on saved tensors until they are gone."""
    model = out_of_place(Plain())
    point = CapturePoint("bn1", "output")
    seen = []
    model.conv1.register_forward_hook(lambda *call: seen.append(weakref.ref(call[-1])))
    gc.collect()
    gc.disable()
    try:
        with Capture(model, [point]) as capture, torch.no_grad():
            tensors = capture.run(lambda: model(images()), stop=True)[1]
            assert tensors[point] is not None and seen[0]() is None
            assert not capture._armed and not capture._stopping and not capture._tensors
    finally:
        gc.enable()


def test_a_pass_under_activation_checkpointing_is_left_with_the_same_gradients():
    """A checkpoint that is left has to run again in backward up to there, with the dropout of the first time."""
    point = CapturePoint("vit.layers.1.mlp.activation_fn", "input")
    gradients = {}
    for checkpointed in (False, True):
        model = tiny.vit(hidden_dropout_prob=0.5).train()
        if checkpointed:
            model.activation_checkpointing_enable({"use_reentrant": False})
        calls = []
        model.classifier.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        with Capture(model, [point]) as capture:
            torch.manual_seed(1)
            output, tensors = capture.run(lambda model=model: model(pixel_values=images()), stop=True)
            assert output is None and not calls
            tensors[point].square().sum().backward()
        gradients[checkpointed] = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert gradients[False]["vit.layers.0.mlp.fc1.weight"].abs().sum() > 0
    torch.testing.assert_close(gradients[True], gradients[False])


def test_offloaded_layers_are_put_away_as_ever():
    """accelerate loads the weights of a layer before its call and frees them after it; a call that is left does not."""
    model = out_of_place(Plain())
    model._hf_hook = object()
    called = []
    model.head.register_forward_pre_hook(lambda *_: called.append(1))
    with Capture(model, [CapturePoint("bn1", "output")]) as capture:
        output, _ = capture.run(lambda: model(images()), stop=True)
    assert called and output is None


def test_a_traced_pass_is_not_left():
    """An exception is a graph break; a compiler drops what is not used by itself."""
    torch._dynamo.reset()
    model = out_of_place(Plain())
    point = CapturePoint("bn1", "output")
    with Capture(model, [point]) as capture:
        compiled = torch.compile(
            lambda x: capture.run(lambda: model(x), stop=True)[1][point], backend="aot_eager", fullgraph=True
        )
        captured = compiled(images())
    torch.testing.assert_close(captured, model.bn1(model.conv1(images())))


# ---- Boundaries of containers ----


def test_boundary_activations_are_those_with_a_sign():
    """A gate or a linear function has no boundary; a missing one makes a layer unusable by its name."""
    for activation in ("relu", "relu6", "gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "silu", "mish", "relu2"):
        assert is_boundary_activation(ACT2FN[activation]), activation
    for activation in ("linear", "laplace", "sigmoid", "tanh"):
        assert not is_boundary_activation(ACT2FN[activation]), activation
    assert not is_boundary_activation(nn.BatchNorm2d(1))


@pytest.mark.parametrize("place", [in_place, out_of_place])
@pytest.mark.parametrize(
    ("make", "stage", "activation"),
    [
        (resnet, "resnet.encoder.stages.1", "resnet.encoder.stages.1.layers.0.activation"),
        (regnet, "regnet.encoder.stages.1", "regnet.encoder.stages.1.layers.1.activation"),
        (regnet, "regnet.encoder.stages.0", "regnet.encoder.stages.0.layers.0.activation"),
        (mobilenet, "mobilenet_v2.conv_1x1", "mobilenet_v2.conv_1x1.activation"),
    ],
)
def test_a_stage_stands_for_the_input_of_its_last_activation(make, stage, activation, place):
    """Its output is after the activation: every boundary of the student would already be past 0."""
    model = place(make())
    points = resolve_boundaries(model, [stage, f"module.{stage}"], lambda: model(images()))
    assert points == dict.fromkeys([stage, f"module.{stage}"], CapturePoint(activation, "input"))
    with Capture(model, points.values()) as capture:
        tensor = capture.probe(lambda: model(images()))[CapturePoint(activation, "input")]
    assert negatives(tensor) > 0.05
    assert hooks(model) == 0


def test_an_activation_stands_for_its_input_and_a_side_for_itself():
    """The user's explicit choice is not to be second-guessed."""
    model = tiny.vit().eval()
    name = "vit.layers.0.mlp.activation_fn"
    points = resolve_boundaries(model, [name, f"{name}:output", "vit.layers.0:output"], lambda: 1 / 0)
    assert points[name] == CapturePoint(name, "input")
    assert points[f"{name}:output"] == CapturePoint(name, "output")
    assert points["vit.layers.0:output"] == CapturePoint("vit.layers.0", "output")


def test_a_transformer_layer_has_no_boundary_and_the_error_names_what_has():
    """Its output is a residual sum; the hidden units are inside the MLP."""
    model = tiny.vit().eval()
    with pytest.raises(ValueError, match=r"does not come straight.*\['vit.layers.0.mlp.activation_fn'\]"):
        resolve_boundaries(model, ["vit.layers.0"], lambda: model(images()))


def test_a_sum_into_the_activations_output_is_no_boundary():
    """`out += shortcut` returns the activation's own tensor object, but no longer its values."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn, self.relu = nn.BatchNorm2d(3), nn.ReLU()

        def forward(self, tensor):
            out = self.relu(self.bn(tensor))
            out += tensor
            return out

    model = nn.Sequential(Block()).eval()
    with pytest.raises(ValueError, match=r"does not come straight from an activation, so.*\['0.relu'\]"):
        resolve_boundaries(model, ["0"], lambda: model(images()))


def test_a_container_that_is_never_called_is_refused():
    """A list of stages is a module, but has no output."""
    model = resnet().eval()
    with pytest.raises(RuntimeError, match="'resnet.encoder.stages' of .* holds 0 tensors"):
        resolve_boundaries(model, ["resnet.encoder.stages"], lambda: model(images()))


def test_wiring_finds_what_is_overwritten_in_the_student():
    """The trainer's captures rest on it: without the copies every step would be an error."""
    model = in_place(regnet())
    name = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)][-1] + ":output"
    terms = [Term(ActivationBoundary(), student=name, teacher=name), Term(CrossEntropy())]
    terms = [RunTerm(term) for term in terms]
    wiring = wire(model, None, terms, {"pixel_values": images()})
    assert wiring.overwritten == {wiring.student[name]}
