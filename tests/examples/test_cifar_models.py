"""The CIFAR networks against their formula, and as code that travels with a model."""

import ast
import importlib
import importlib.util
import math
import sys

import pytest
import torch
import torch.nn.functional as F
from example_runs import EXAMPLES
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    Trainer,
    TrainingArguments,
)

EXAMPLE = EXAMPLES / "cifar_models.py"


@pytest.fixture
def images():
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def norm(x, state, name):
    mean, var, weight, bias = (
        state[f"{name}.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def resnet_by_hand(state, x, blocks):
    features = []
    x = norm(F.conv2d(x, state["conv1.weight"], padding=1), state, "bn1").clamp(min=0)
    for group in (1, 2, 3):
        for block in range(blocks):
            name = f"layer{group}.{block}"
            stride = 2 if group > 1 and block == 0 else 1
            out = F.conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1)
            out = norm(out, state, f"{name}.bn1").clamp(min=0)
            out = norm(F.conv2d(out, state[f"{name}.conv2.weight"], padding=1), state, f"{name}.bn2")
            margin = (out.shape[1] - x.shape[1]) // 2
            for channel in range(x.shape[1]):
                out[:, channel + margin] += x[:, channel, ::stride, ::stride]
            x = out.clamp(min=0)
        features.append(out)
    return features, x.mean((2, 3)) @ state["linear.weight"].T + state["linear.bias"]


def wide_resnet_by_hand(state, x, blocks):
    features = []
    x = F.conv2d(x, state["conv1.weight"], padding=1)
    for group in (1, 2, 3):
        for block in range(blocks):
            name = f"block{group}.{block}"
            stride = 2 if group > 1 and block == 0 else 1
            before = norm(x, state, f"{name}.bn1")
            if group > 1 and block == 0:
                features.append(before)
            active = before.clamp(min=0)
            out = F.conv2d(active, state[f"{name}.conv1.weight"], stride=stride, padding=1)
            out = norm(out, state, f"{name}.bn2").clamp(min=0)
            out = F.conv2d(out, state[f"{name}.conv2.weight"], padding=1)
            if f"{name}.shortcut.weight" in state:
                x = F.conv2d(active, state[f"{name}.shortcut.weight"], stride=stride)
            x = x + out
    features.append(norm(x, state, "bn1"))
    return features, features[-1].clamp(min=0).mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]


@pytest.mark.parametrize(
    ("family", "settings", "parameters", "published"),
    [
        ("resnet", {"depth": 20}, 269_722, 0.27e6),
        ("resnet", {"depth": 56}, 853_018, 0.85e6),
        ("wide_resnet", {"depth": 16, "widen_factor": 2}, 691_674, 0.7e6),
        ("wide_resnet", {"depth": 40, "widen_factor": 4}, 8_949_210, 8.9e6),
        ("wide_resnet", {"depth": 28, "widen_factor": 10}, 36_479_194, 36.5e6),
    ],
)
def test_networks_have_the_published_size(cifar, family, settings, parameters, published):
    """A block or shortcut too many, and every comparison with a paper's table is between other networks."""
    config_class, model_class = cifar.FAMILIES[family]
    with torch.device("meta"):
        model = model_class(config_class(**settings))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert parameters == pytest.approx(published, rel=0.02)


def test_network_and_hooked_features_equal_the_formula(cifar, model, images):
    """A wrong shortcut trains a little worse, and a feature of the wrong place distils another boundary: both
    in silence."""
    model, images = model.double(), images.double()  # or the order of sums would set the tolerance
    names = cifar.boundary_layers(model.config)
    captured = {}
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda module, inputs, name=name: captured.update({name: inputs[0]})
        )
        for name in names
    ]
    with torch.no_grad():
        logits = model(images).logits
    for hook in hooks:
        hook.remove()
    by_hand = resnet_by_hand if model.config.model_type == "cifar_resnet" else wide_resnet_by_hand
    features, expected = by_hand(model.state_dict(), images, blocks=2)
    torch.testing.assert_close(logits, expected)
    assert [feature.shape[2] for feature in features] == [16, 8, 4]
    for name, feature in zip(names, features, strict=True):
        assert 0.05 < (feature < 0).float().mean() < 0.95  # before the activation, and not overwritten
        torch.testing.assert_close(captured[name], feature)


def test_every_activation_is_a_module_that_runs_once_and_not_in_place(model, images):
    """A ReLU shared between places is refused by capture, one in place zeroes the negatives it captured, one
    as a function cannot be captured at all."""
    relus = {name: module for name, module in model.named_modules() if isinstance(module, nn.ReLU)}
    calls = dict.fromkeys(relus, 0)
    unchanged = []

    def count(name, inputs, output, before):
        calls[name] += 1
        unchanged.append(torch.equal(inputs, before))
        assert output.data_ptr() != inputs.data_ptr()

    for name, relu in relus.items():
        before = []
        relu.register_forward_pre_hook(lambda _, inputs, b=before: b.append(inputs[0].clone()))
        relu.register_forward_hook(lambda _, i, o, name=name, b=before: count(name, i[0], o, b[-1]))
    with torch.no_grad():
        model(images)
    assert len(relus) == 13  # 3 groups x 2 blocks x 2, and the one of the stem or before the pool
    assert set(calls.values()) == {1}
    assert all(unchanged)
    source = EXAMPLE.read_text(encoding="utf-8")
    assert not any(call in source for call in ("F.relu", "torch.relu", ".relu()", ".clamp("))


def test_loss_is_the_mean_cross_entropy(model, images):
    """A wrong scale here and the baseline of every comparison is trained at another learning rate."""
    labels = torch.tensor([3, 0, 9])
    output = model(images, labels=labels, num_items_in_batch=7)
    log_probabilities = output.logits.log_softmax(1)
    expected = -(log_probabilities[0, 3] + log_probabilities[1, 0] + log_probabilities[2, 9]) / 3
    torch.testing.assert_close(output.loss, expected)
    output.loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())
    assert model(images).loss is None
    as_tuple = model(images, labels=labels, return_dict=False)
    torch.testing.assert_close(as_tuple, (output.loss, output.logits))


def test_trainer_does_not_believe_the_loss_is_a_sum(model, tmp_path):
    """Otherwise Trainer multiplies the gradients by the accumulation steps without a word."""
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    assert Trainer(model=model, args=arguments).model_accepts_loss_kwargs is False


def test_fresh_weights_follow_the_papers(cifar):
    """The library's default deviation of 0.02 makes a deep plain network start with a vanishing signal."""
    torch.manual_seed(0)
    model = cifar.CifarWideResNetForImageClassification(cifar.CifarWideResNetConfig(depth=16, widen_factor=4))
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 16
    for module in convolutions:
        fan_out = module.out_channels * module.kernel_size[0] ** 2
        assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.weight, torch.ones_like(module.weight))
            assert not module.bias.any()
    assert not model.fc.bias.any()
    assert model.fc.weight.std() > 0


def test_dropout_acts_in_training_only(cifar, images):
    """A setting that is read but not used would report an ablation that never ran."""
    config = cifar.CifarWideResNetConfig(depth=10, widen_factor=1, dropout=0.5)
    model = cifar.CifarWideResNetForImageClassification(config)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    model.train()
    assert not torch.equal(model(images).logits, model(images).logits)
    model.eval()
    assert torch.equal(model(images).logits, model(images).logits)


@pytest.mark.parametrize(
    ("family", "settings", "culprit"),
    [
        ("resnet", {"depth": 18}, "depth"),
        ("resnet", {"depth": 2}, "depth"),
        ("resnet", {"widths": (16, 32)}, "widths"),
        ("resnet", {"widths": (16, 31, 64)}, "widths"),
        ("resnet", {"widths": (64, 32, 16)}, "widths"),
        ("wide_resnet", {"depth": 20}, "depth"),
        ("wide_resnet", {"depth": 4}, "depth"),
        ("wide_resnet", {"widen_factor": 0}, "widen_factor"),
        ("wide_resnet", {"dropout": 1.0}, "dropout"),
    ],
)
def test_impossible_shapes_are_refused_by_name(cifar, family, settings, culprit):
    """Rounded down, depth 18 would be a network of depth 14 under a wrong name in the results."""
    config_class, _ = cifar.FAMILIES[family]
    with pytest.raises(ValueError, match=f"^{culprit} must be"):
        config_class(**settings)


def test_labels_are_named_after_cifar_10_only_when_there_are_ten(cifar):
    """Wrong names put a published model's answers under other classes."""
    config = cifar.CifarResNetConfig()
    assert config.num_labels == 10
    assert config.id2label[0] == "airplane"
    assert config.label2id["truck"] == 9
    assert cifar.CifarResNetConfig(num_labels=100).id2label[99] == "LABEL_99"
    digits = cifar.CifarResNetConfig(id2label={"0": "zero", "1": "one"})
    assert digits.num_labels == 2
    assert digits.label2id == {"zero": 0, "one": 1}
    assert cifar.CifarWideResNetConfig.from_dict(cifar.CifarWideResNetConfig().to_dict()).num_labels == 10


def test_file_needs_only_torch_transformers_and_the_standard_library():
    """One import more and the saved models load only where that package, or this repository, is installed."""
    imported = set()
    for node in ast.walk(ast.parse(EXAMPLE.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(node.module.partition(".")[0])
    assert imported - set(sys.stdlib_module_names) == {"torch", "transformers"}


def test_file_can_be_imported_twice_in_one_process(cifar, images):
    """A test, a notebook and a model loaded as remote code meet in one process; the second must not crash."""
    name = "cifar_models_again"
    spec = importlib.util.spec_from_file_location(name, EXAMPLE)
    again = importlib.util.module_from_spec(spec)
    sys.modules[name] = again
    try:
        spec.loader.exec_module(again)
        assert type(AutoConfig.for_model("cifar_resnet")) is again.CifarResNetConfig
        for module in (cifar, again):
            config = module.CifarResNetConfig(depth=8)
            built = AutoModelForImageClassification.from_config(config)
            assert type(built) is module.CifarResNetForImageClassification
            assert built(images).logits.shape == (3, 10)
    finally:
        del sys.modules[name]
        cifar.register()
    assert type(AutoConfig.for_model("cifar_resnet")) is cifar.CifarResNetConfig
