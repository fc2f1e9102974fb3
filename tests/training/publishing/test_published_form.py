"""How others load what was saved: what the card says of it runs, or only its author could and is told before."""

import importlib
import re
import sys

import pytest
import tiny
import torch
from PIL import Image as PILImage
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessorPil, ViTModel

from hf_abkd import DistillationTrainer
from hf_abkd.models.tasks.image_classification import IMAGE_CLASSIFICATION
from hf_abkd.training.publishing.published_form import auto_class_problem

NETS = """
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification


class OwnConfig(ResNetConfig):
    model_type = "own_net"


class Twofold(ResNetForImageClassification):
    def __init__(self, config):
        super().__init__(config)
        self.scale = nn.Linear(1, 1)

    def forward(self, pixel_values, labels=None, **kwargs):
        output = super().forward(pixel_values, labels=labels, **kwargs)
        output.logits = output.logits * self.scale.weight
        return output


class OwnNet(Twofold):
    config_class = OwnConfig
"""
SIZES = {"embedding_size": 4, "hidden_sizes": [8, 16], "depths": [1, 1], "num_labels": tiny.CLASSES}


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """A module of a user's, in the current folder, that is forgotten afterwards."""
    (tmp_path / "nets_for_test.py").write_text(NETS)
    (tmp_path / "beside_for_test.py").write_text("import layers_for_test\n" + NETS)
    (tmp_path / "layers_for_test.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda name: importlib.import_module(name)
    for name in [name for name in sys.modules if name.endswith("_for_test")]:
        del sys.modules[name]


def problem(model):
    return auto_class_problem(model, IMAGE_CLASSIFICATION)


def test_a_class_of_transformers_is_loaded_by_its_auto_class():
    """Which of DeiT's classes, too; one that classifies nothing is another class than the Auto class makes."""
    assert problem(tiny.resnet(4)) is None
    assert problem(tiny.vit()) is None
    assert "another class than ViTModel" in problem(ViTModel(tiny.vit().config))


def test_each_way_in_which_code_does_not_come_along_is_told_with_the_remedy(nets):
    """The Auto class would load a plain ResNet with a part of the weights, or nothing."""
    module = nets("nets_for_test")
    known, own = module.Twofold(ResNetConfig(**SIZES)), module.OwnNet(module.OwnConfig(**SIZES))
    assert 'Call Twofold.register_for_auto_class("AutoModelForImageClassification") before' in problem(known)
    both = 'OwnNet.register_for_auto_class("AutoModelForImageClassification") and OwnConfig.register_for_auto_class()'
    assert both in problem(own)
    module.Twofold.register_for_auto_class("AutoModel")
    assert "Twofold.register_for_auto_class" in problem(known)
    module.Twofold.register_for_auto_class("AutoModelForImageClassification")
    assert problem(known) is None
    assert "Call OwnConfig.register_for_auto_class() before" in problem(own)
    module.OwnConfig.register_for_auto_class()
    assert problem(own) is None
    module.OwnNet.__module__ = "__main__"
    assert "OwnNet stands in a script or a notebook" in problem(own)
    beside = nets("beside_for_test")
    beside.Twofold.register_for_auto_class("AutoModelForImageClassification")
    assert "imports layers_for_test from beside its file" in problem(beside.Twofold(ResNetConfig(**SIZES)))


def test_a_student_that_only_its_class_can_load_is_told_and_the_card_imports_the_class(
    nets, tmp_path, caplog, monkeypatch
):
    """The card said AutoModelForImageClassification, which made another model of the weights."""
    kind = nets("nets_for_test").Twofold
    processor = ViTImageProcessorPil(size={"height": tiny.SIZE, "width": tiny.SIZE})
    trainer = DistillationTrainer(
        kind(ResNetConfig(**SIZES)),
        tiny.arguments(tmp_path / "out"),
        train_dataset=tiny.images(),
        processing_class=processor,
    )
    assert "AutoModelForImageClassification will not load this student from its folder" in caplog.text
    trainer.save_model()
    trainer.create_model_card()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "`Twofold` is the author's class, from `nets_for_test`; its code is not part of this repository." in card
    snippet = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    assert 'from_pretrained(".", backend="pil")' in snippet
    monkeypatch.chdir(tmp_path / "out")
    loaded = {"image": PILImage.new("RGB", (20, 20))}
    exec(snippet, loaded)
    assert type(loaded["model"]) is kind
    assert torch.equal(loaded["model"].scale.weight, trainer.model.scale.weight.cpu())


def test_a_student_of_transformers_is_told_of_nothing(tmp_path, caplog):
    """A warning that always comes is read by nobody."""
    DistillationTrainer(
        ResNetForImageClassification(ResNetConfig(**SIZES)), tiny.arguments(tmp_path), train_dataset=tiny.images()
    )
    assert "will not load" not in caplog.text
