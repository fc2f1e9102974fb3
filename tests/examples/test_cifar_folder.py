"""Folders with a CIFAR network: written by the command line, and loaded where nobody knows the examples."""

import io
import json
import runpy
import sys

import numpy as np
import pytest
import torch
from example_runs import EXAMPLES, call, imported
from launched import forked_on, hub_port
from loopback_hub import LoopbackHub
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
)

ROOT = EXAMPLES.parent
EXAMPLE = EXAMPLES / "cifar_models.py"
DATA_FOLDERS = [ROOT.parent / "shared" / "data", ROOT / "shared" / "data"]


@pytest.fixture(scope="module")
def weights():
    return imported("cifar_weights")


def data_file(name):
    for folder in DATA_FOLDERS:
        if (folder / name).is_file():
            return folder / name
    pytest.skip(f"{name} is in none of {[str(folder) for folder in DATA_FOLDERS]}")


@pytest.mark.parametrize("family", ["resnet", "wide_resnet"])
def test_processor_normalises_as_the_family_is_trained(weights, family, tmp_path):
    """A teacher that sees other statistics than it was trained with loses points that nobody notices."""
    weights.cifar_processor(family).save_pretrained(tmp_path)
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


def test_processor_of_an_unknown_family_is_refused(weights):
    """A typing error must not fall back to the other family's normalisation."""
    with pytest.raises(ValueError, match=r"resnet.*got 'vgg'"):
        weights.cifar_processor("vgg")


def test_weights_must_fit_in_every_key(weights, model, tmp_path):
    """A teacher with layers left at random, loaded with a mere log line, distils noise."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fresh = type(model)(model.config)
    without_counters = {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}
    save_file(without_counters, tmp_path / "good.safetensors")
    weights.load_weights(fresh, tmp_path / "good.safetensors")
    assert all(torch.equal(fresh.state_dict()[name], tensor) for name, tensor in state.items())

    head = "linear.bias" if "linear.bias" in state else "fc.bias"
    save_file({n: t for n, t in state.items() if n != head}, tmp_path / "missing.safetensors")
    with pytest.raises(ValueError, match=f"1 missing keys \\({head}\\), 0 unexpected"):
        weights.load_weights(fresh, tmp_path / "missing.safetensors")
    save_file({**state, "connector.weight": torch.ones(1)}, tmp_path / "unexpected.safetensors")
    with pytest.raises(ValueError, match=r"1 unexpected keys \(connector.weight\)"):
        weights.load_weights(fresh, tmp_path / "unexpected.safetensors")
    save_file({**state, head: torch.ones(7)}, tmp_path / "shape.safetensors")
    with pytest.raises(RuntimeError, match=head):
        weights.load_weights(fresh, tmp_path / "shape.safetensors")
    torch.save(state, tmp_path / "pickle.bin")
    with pytest.raises(ValueError, match="pickle is never loaded"):
        weights.load_weights(fresh, tmp_path / "pickle.bin")
    with pytest.raises(FileNotFoundError, match=r"absent\.safetensors"):
        weights.load_weights(fresh, tmp_path / "absent.safetensors")


def printed_by(program, folder):
    """What a program prints that runs in `folder` and never saw the examples, with caches of its own.

    Any warning fails.
    """
    (folder / "program.py").write_text(program)
    with LoopbackHub(hub_port()) as hub:
        code, output = forked_on(hub, folder / "program.py", folder=folder)
        assert hub.requests == [], "folders on the disk need no Hub"
    assert code == 0, output
    assert "warn" not in output.lower(), output
    assert "can't save the code" not in output, output
    return output.splitlines()[-1]


def run_command_line(*arguments):
    call("cifar_folder", *arguments)


def test_script_writes_given_weights_with_their_code(cifar, tmp_path, monkeypatch, caplog):
    """Run as a script the classes live in __main__, whose code is not saved: the folder would load nowhere."""
    torch.manual_seed(3)
    model = cifar.CifarResNetForImageClassification(cifar.CifarResNetConfig(depth=8))
    state = {name: t for name, t in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    save_file(state, tmp_path / "weights.safetensors")
    words = ["--depth", "8", "--output_dir", "teacher", "--weights", "weights.safetensors"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *words])
    for name in ("cifar_models", "cifar_folder"):  # a script finds neither imported
        monkeypatch.delitem(sys.modules, name, raising=False)
    try:
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    finally:
        monkeypatch.undo()
        cifar.register()
    assert "can't save the code" not in caplog.text
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
import json, sys, warnings
import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification as Auto

warnings.simplefilter("error")
assert "cifar_models" not in sys.modules
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


def test_saved_folders_load_where_the_example_was_never_imported(tmp_path):
    """A published student that needs this repository beside it is not published."""
    shapes = {"resnet": ["--depth", "14"], "wide_resnet": ["--depth", "16", "--widen_factor", "1"]}
    for family, shape in shapes.items():
        command = ["--family", family, *shape, "--output_dir"]
        run_command_line(*command, tmp_path / family)
        run_command_line(*command, tmp_path / f"{family}_config", "--config_only")
        assert not (tmp_path / f"{family}_config" / "model.safetensors").exists()
        full, alone = (
            json.loads((tmp_path / folder / "config.json").read_text()) for folder in (family, f"{family}_config")
        )
        assert full.pop("dtype") == "float32"  # of the weights, which the other folder has not
        assert alone == full

    answers = json.loads(printed_by(LOADER, tmp_path))
    images = torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)
    for family in shapes:
        here = AutoModelForImageClassification.from_pretrained(tmp_path / family).eval()
        assert type(here).__module__ == "cifar_models"
        # Close, not equal: loaded tensors lie at other alignments, where the CPU's kernels round differently.
        torch.testing.assert_close(torch.tensor(answers[family]["logits"]), here(images).logits.detach())
        assert answers[family]["size"] == 32
        assert answers[family]["student"] == [type(here).__name__, here.num_parameters()]


def test_command_line_seed_decides_the_fresh_weights(tmp_path):
    """Runs with one seed must start from one student, and runs with two seeds from two."""
    weights = []
    for folder, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        arguments = ["--depth", 8, "--output_dir", tmp_path / folder, "--seed", seed]
        run_command_line(*arguments)
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
def test_command_line_refuses_before_it_writes(tmp_path, arguments, culprit):
    """A folder left behind by a failed command looks like a teacher."""
    output = tmp_path / "out"
    with pytest.raises((ValueError, FileNotFoundError), match=culprit):
        run_command_line("--depth", 8, "--output_dir", output, *arguments)
    assert not output.exists()


def test_real_teacher_has_exactly_the_keys_of_the_network(cifar):
    """The public weights are of use only if every tensor finds its place under its own name."""
    public = load_file(data_file("cifar10-resnet56/model.safetensors"))
    model = cifar.CifarResNetForImageClassification(cifar.CifarResNetConfig(depth=56))
    keys = {key for key in model.state_dict() if not key.endswith("num_batches_tracked")}
    assert keys == public.keys()


def test_real_teacher_is_right_on_real_images(cifar, weights):
    """Shortcut, normalisation or label order wrong: the keys still fit and the teacher knows less."""
    parquet = pytest.importorskip("pyarrow.parquet")
    file, rows = data_file("cifar10-resnet56/model.safetensors"), data_file("cifar10-test.parquet")
    model = cifar.CifarResNetForImageClassification(cifar.CifarResNetConfig(depth=56))
    weights.load_weights(model, file)
    model.eval()
    processor = weights.cifar_processor("resnet")
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
