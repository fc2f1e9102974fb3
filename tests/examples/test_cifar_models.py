import ast
import importlib
import importlib.util
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    Trainer,
    TrainingArguments,
)

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "cifar_models.py"
DATA_FOLDERS = [ROOT.parent / "shared" / "data", ROOT / "shared" / "data"]


def data_file(name):
    for folder in DATA_FOLDERS:
        if (folder / name).is_file():
            return folder / name
    pytest.skip(f"{name} is in none of {[str(folder) for folder in DATA_FOLDERS]}")


@pytest.fixture(scope="module")
def cifar():
    sys.path.insert(0, str(EXAMPLE.parent))
    try:
        return importlib.import_module("cifar_models")
    finally:
        sys.path.remove(str(EXAMPLE.parent))


@pytest.fixture(params=["resnet", "wide_resnet"])
def model(request, cifar):
    """A small network of each family, in eval mode, whose BatchNorms are not the identity."""
    torch.manual_seed(0)
    if request.param == "resnet":
        config = cifar.CifarResNetConfig(depth=14, widths=(4, 8, 12))
        model = cifar.CifarResNetForImageClassification(config)
    else:
        config = cifar.CifarWideResNetConfig(depth=16, widen_factor=1)
        model = cifar.CifarWideResNetForImageClassification(config)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias, 0, 0.2)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


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


@pytest.mark.parametrize("family", ["resnet", "wide_resnet"])
def test_processor_normalises_as_the_family_is_trained(cifar, family, tmp_path):
    """A teacher that sees other statistics than it was trained with loses points that nobody notices."""
    cifar.cifar_processor(family).save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    values = processor(Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
    if family == "resnet":
        mean, std = 255 * torch.tensor([0.485, 0.456, 0.406]), 255 * torch.tensor([0.229, 0.224, 0.225])
    else:
        mean, std = torch.tensor([125.3, 123.0, 113.9]), torch.tensor([63.0, 62.1, 66.7])
    expected = ((torch.from_numpy(pixels) - mean) / std).permute(2, 0, 1)[None]
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-4)
    larger = processor(Image.fromarray(pixels).resize((50, 40)), return_tensors="pt")["pixel_values"]
    assert larger.shape == (1, 3, 32, 32)


def test_processor_of_an_unknown_family_is_refused(cifar):
    """A typing error must not fall back to the other family's normalisation."""
    with pytest.raises(ValueError, match=r"resnet.*got 'vgg'"):
        cifar.cifar_processor("vgg")


def test_weights_must_fit_in_every_key(cifar, model, tmp_path):
    """A teacher with layers left at random, loaded with a mere log line, distils noise."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fresh = type(model)(model.config)
    without_counters = {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}
    save_file(without_counters, tmp_path / "good.safetensors")
    cifar.load_weights(fresh, tmp_path / "good.safetensors")
    assert all(torch.equal(fresh.state_dict()[name], tensor) for name, tensor in state.items())

    head = "linear.bias" if "linear.bias" in state else "fc.bias"
    save_file({n: t for n, t in state.items() if n != head}, tmp_path / "missing.safetensors")
    with pytest.raises(ValueError, match=f"1 missing keys \\({head}\\), 0 unexpected"):
        cifar.load_weights(fresh, tmp_path / "missing.safetensors")
    save_file({**state, "connector.weight": torch.ones(1)}, tmp_path / "unexpected.safetensors")
    with pytest.raises(ValueError, match=r"1 unexpected keys \(connector.weight\)"):
        cifar.load_weights(fresh, tmp_path / "unexpected.safetensors")
    save_file({**state, head: torch.ones(7)}, tmp_path / "shape.safetensors")
    with pytest.raises(RuntimeError, match=head):
        cifar.load_weights(fresh, tmp_path / "shape.safetensors")
    torch.save(state, tmp_path / "pickle.bin")
    with pytest.raises(ValueError, match="pickle is never loaded"):
        cifar.load_weights(fresh, tmp_path / "pickle.bin")
    with pytest.raises(FileNotFoundError, match=r"absent\.safetensors"):
        cifar.load_weights(fresh, tmp_path / "absent.safetensors")


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


def run_python(arguments, folder):
    """Run a fresh interpreter in `folder`, with caches of its own; any warning fails."""
    environment = {**os.environ, "HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("HF_MODULES_CACHE", None)
    result = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.returncode == 0, result.stderr
    assert "warn" not in result.stderr.lower(), result.stderr
    assert "can't save the code" not in result.stderr, result.stderr
    return result.stdout


def run_command_line(cifar, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["cifar_models.py", *map(str, arguments)])
    cifar.main()


def test_script_writes_given_weights_with_their_code(cifar, tmp_path):
    """Run as a script the classes live in __main__, whose code is not saved: the folder would load nowhere."""
    torch.manual_seed(3)
    model = cifar.CifarResNetForImageClassification(cifar.CifarResNetConfig(depth=8))
    state = {name: t for name, t in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    save_file(state, tmp_path / "weights.safetensors")
    command = [str(EXAMPLE), "--depth", "8", "--output_dir", "teacher", "--weights", "weights.safetensors"]
    run_python(command, tmp_path)
    written = {path.name for path in (tmp_path / "teacher").iterdir()}
    assert written == {"cifar_models.py", "config.json", "model.safetensors", "preprocessor_config.json"}
    assert (tmp_path / "teacher" / "cifar_models.py").read_bytes() == EXAMPLE.read_bytes()
    config = json.loads((tmp_path / "teacher" / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "cifar_models.CifarResNetConfig",
        "AutoModelForImageClassification": "cifar_models.CifarResNetForImageClassification",
    }
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "teacher")
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in state.items())


LOADER = """
import json, sys
import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification as Auto

images = torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)
answers = {}
for family in ("resnet", "wide_resnet"):
    model, report = Auto.from_pretrained(family, trust_remote_code=True, output_loading_info=True)
    assert not any(report.values()), report
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    layers = model.config.boundary_layers()
    assert all(isinstance(model.get_submodule(name), torch.nn.ReLU) for name in layers)
    size = AutoImageProcessor.from_pretrained(family).size["height"]

    config = AutoConfig.from_pretrained(family + "_config", trust_remote_code=True)
    student = Auto.from_config(config, trust_remote_code=True)
    student.save_pretrained("saved_again")
    again = Auto.from_pretrained("saved_again", trust_remote_code=True)
    state = student.state_dict()
    assert state.keys() == again.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in again.state_dict().items())
    answers[family] = {
        "logits": model.eval()(images).logits.tolist(),
        "size": size,
        "student": [type(student).__name__, student.num_parameters()],
    }
assert "cifar_models" not in sys.modules
print(json.dumps(answers))
"""


def test_saved_folders_load_where_the_example_was_never_imported(cifar, tmp_path, monkeypatch):
    """A published student that needs this repository beside it is not published."""
    shapes = {"resnet": ["--depth", "14"], "wide_resnet": ["--depth", "16", "--widen_factor", "1"]}
    for family, shape in shapes.items():
        command = ["--family", family, *shape, "--output_dir"]
        run_command_line(cifar, monkeypatch, *command, tmp_path / family)
        run_command_line(cifar, monkeypatch, *command, tmp_path / f"{family}_config", "--config_only")
        assert not (tmp_path / f"{family}_config" / "model.safetensors").exists()
        full, alone = (
            json.loads((tmp_path / folder / "config.json").read_text()) for folder in (family, f"{family}_config")
        )
        assert full.pop("dtype") == "float32"  # of the weights, which the other folder has not
        assert alone == full

    answers = json.loads(run_python(["-c", LOADER], tmp_path))
    images = torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)
    for family in shapes:
        here = AutoModelForImageClassification.from_pretrained(tmp_path / family).eval()
        assert type(here).__module__ == "cifar_models"
        # Close, not equal: loaded tensors lie at other alignments, where the CPU's kernels round differently.
        torch.testing.assert_close(torch.tensor(answers[family]["logits"]), here(images).logits.detach())
        assert answers[family]["size"] == 32
        assert answers[family]["student"] == [type(here).__name__, here.num_parameters()]


def test_command_line_seed_decides_the_fresh_weights(cifar, tmp_path, monkeypatch):
    """Runs with one seed must start from one student, and runs with two seeds from two."""
    weights = []
    for folder, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        arguments = ["--depth", 8, "--output_dir", tmp_path / folder, "--seed", seed]
        run_command_line(cifar, monkeypatch, *arguments)
        weights.append(load_file(tmp_path / folder / "model.safetensors")["layer3.0.conv2.weight"])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (["--config_only", "--weights", "some.safetensors"], "--config_only"),
        (["--widen_factor", "2"], "--widen_factor"),
        (["--weights", "absent.safetensors"], "absent.safetensors"),
    ],
)
def test_command_line_refuses_before_it_writes(cifar, tmp_path, monkeypatch, arguments, culprit):
    """A folder left behind by a failed command looks like a teacher."""
    output = tmp_path / "out"
    with pytest.raises((ValueError, FileNotFoundError), match=culprit):
        run_command_line(cifar, monkeypatch, "--depth", 8, "--output_dir", output, *arguments)
    assert not output.exists()


def test_real_teacher_has_exactly_the_keys_of_the_network(cifar):
    """The public weights are of use only if every tensor finds its place under its own name."""
    weights = load_file(data_file("cifar10-resnet56/model.safetensors"))
    model = cifar.CifarResNetForImageClassification(cifar.CifarResNetConfig(depth=56))
    keys = {key for key in model.state_dict() if not key.endswith("num_batches_tracked")}
    assert keys == weights.keys()


def test_real_teacher_is_right_on_real_images(cifar):
    """Shortcut, normalisation or label order wrong: the keys still fit and the teacher knows less."""
    parquet = pytest.importorskip("pyarrow.parquet")
    weights, rows = data_file("cifar10-resnet56/model.safetensors"), data_file("cifar10-test.parquet")
    model = cifar.CifarResNetForImageClassification(cifar.CifarResNetConfig(depth=56))
    cifar.load_weights(model, weights)
    model.eval()
    processor = cifar.cifar_processor("resnet")
    table = next(parquet.ParquetFile(rows).iter_batches(500))
    labels = torch.tensor(table["label"].to_pylist())
    pictures = [Image.open(io.BytesIO(image["bytes"])).convert("RGB") for image in table["img"].to_pylist()]
    with torch.no_grad():
        predictions = torch.cat(
            [
                model(**processor(pictures[start : start + 100], return_tensors="pt")).logits.argmax(1)
                for start in range(0, 500, 100)
            ]
        )
    assert len(labels) == 500
    assert (predictions == labels).float().mean() > 0.85
