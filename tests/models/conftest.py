"""Fixtures of the tests that load models: folders that look like downloads, and modules with factories."""

import logging
import sys

import pytest
from saved_models import resnet_config, saved
from transformers import ResNetForImageClassification


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """A name that is by mistake taken for a Hub id must fail here, not wait for a connection."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def hub_cache(tmp_path):
    """Returns the folder of a Hub repository's files, laid out as if they had been downloaded before."""

    def folder(repository):
        root = tmp_path / f"models--{repository.replace('/', '--')}"
        (root / "refs").mkdir(parents=True)
        (root / "refs" / "main").write_text("0" * 40)
        snapshot = root / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        return snapshot

    return folder


@pytest.fixture
def resnet(tmp_path):
    return saved(tmp_path / "resnet", ResNetForImageClassification(resnet_config()))


@pytest.fixture
def logged(caplog):
    caplog.set_level(logging.INFO, logger="hf_abkd.models")
    return caplog


FACTORIES = """
import torch
from transformers import ResNetConfig, ResNetForImageClassification

model = torch.nn.Linear(2, 2)

def plain():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2), torch.nn.BatchNorm1d(2)).half()

def student(classes=3, names=("cat", "dog", "owl")):
    sizes = dict(embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic", num_channels=1)
    return ResNetForImageClassification(ResNetConfig(**sizes, id2label=dict(enumerate(names)))).half().eval()

def reordered():
    return student(names=["owl", "dog", "cat"])

def lazy():
    from own_package import nets
    return nets.plain()

def needs(width, *, depth):
    return plain()

def broken():
    return student(1, 2, 3)

def number():
    return 3
"""


@pytest.fixture
def factories(tmp_path, monkeypatch):
    """A module in the current folder, and one in a package, that are forgotten afterwards."""
    folder = tmp_path / "project"
    (folder / "own_package").mkdir(parents=True)
    (folder / "own_factories.py").write_text(FACTORIES)
    (folder / "own_package" / "nets.py").write_text(FACTORIES)
    (folder / "own_needy.py").write_text("import own_absent")
    monkeypatch.chdir(folder)
    before, path = set(sys.modules), list(sys.path)
    yield folder
    assert sys.path == path
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            del sys.modules[name]
