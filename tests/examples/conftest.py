"""Models and images as users of the examples have them, made once."""

import shutil

import pytest
import torch
from example_runs import few_digits, imported, save_models_and_digits
from torch import nn

from hf_abkd.cli import demonstration


@pytest.fixture(scope="session")
def _saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models and digits")
    save_models_and_digits(folder)
    return folder


@pytest.fixture
def workspace(tmp_path, _saved):
    """A folder with a teacher, the configs of a teacher and a student, and digits as parquet files."""
    return shutil.copytree(_saved, tmp_path / "workspace")


@pytest.fixture(scope="module")
def shared_workspace(tmp_path_factory, _saved):
    """The same for all tests of a file, for what several of them look at."""
    return shutil.copytree(_saved, tmp_path_factory.mktemp("shared") / "workspace")


@pytest.fixture
def demonstrated_on_few(monkeypatch):
    """Make demonstrations small: few images, smaller networks, and times of two turns."""
    monkeypatch.setattr("hf_abkd.models.latency._BRIEF_TURNS", 2)
    for network, widths in ((demonstration._TEACHER, [8, 12, 16]), (demonstration._STUDENT, [4, 8, 12])):
        monkeypatch.setitem(network, "widths", widths)
        monkeypatch.setitem(network, "depths", [1, 1, 1])
    monkeypatch.setattr("hf_abkd.cli.demonstration.digits", few_digits)
    monkeypatch.setattr("hf_abkd.cli.domains.digits", few_digits)


@pytest.fixture(scope="session")
def cifar():
    """The module of the CIFAR networks."""
    return imported("cifar_models")


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
