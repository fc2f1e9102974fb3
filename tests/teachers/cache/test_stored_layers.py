"""Terms name layers as users do, and must find the tensor that they mean, or nothing."""

import warnings

import pytest
import torch
from cached_runs import ACTIVATION, STAGE, MeanSquaredError, rows, teacher_of, write
from torch import nn

from hf_abkd import ActivationBoundary
from hf_abkd.teachers.cache.settings import CacheSettings
from hf_abkd.teachers.cache.stored_layers import StoredLayers


def column_of(cache, teacher, *, boundary=True):
    objective = ActivationBoundary() if boundary else MeanSquaredError()
    return cache.column(teacher, boundary=objective.boundary).name


@pytest.mark.parametrize("given", [STAGE, ACTIVATION, f"{ACTIVATION}:input", f"module.{ACTIVATION}"])
def test_boundary_is_known_by_the_name_it_was_asked_for_and_by_its_activation(tmp_path, given):
    """Terms name layers as users do: by the stage, the activation, or the tensor."""
    cache = write(tmp_path / "cache", data=rows(3), layers=[given])
    for name in (given, ACTIVATION, f"{ACTIVATION}:input"):
        assert column_of(cache, name) == f"{ACTIVATION}:input"
    with pytest.raises(ValueError, match="compares values .* holds"):
        column_of(cache, given, boundary=False)


def test_boundary_of_a_plain_output_is_known_by_its_side_alone(tmp_path):
    """Without a side the name of a linear layer stands for no boundary with a live teacher either."""
    cache = write(tmp_path / "cache", teacher_of("vit"), rows(3), layers=["vit.layers.0.mlp.fc1:output"])
    assert column_of(cache, "vit.layers.0.mlp.fc1:output") == "vit.layers.0.mlp.fc1:output"
    with pytest.raises(ValueError, match="compares boundaries"):
        column_of(cache, "vit.layers.0.mlp.fc1")
    with pytest.raises(ValueError, match="holds no boundaries of activations"):
        cache.trace  # noqa: B018


def test_two_names_of_one_tensor_are_one_column(tmp_path):
    """The same bits twice would be twice the size."""
    cache = write(tmp_path / "cache", data=rows(3), layers=[STAGE, ACTIVATION])
    assert list(cache.table.columns) == ["logits", f"{ACTIVATION}:input"]
    assert column_of(cache, STAGE) == column_of(cache, ACTIVATION)


def test_values_before_a_module_do_not_pass_for_those_behind_it(tmp_path):
    """A name without a side is the output; trained on the input, nothing would complain if the shapes are the same."""
    layer = "resnet.encoder.stages.1.layers.0.layer.1.normalization"
    cache = write(tmp_path / "cache", data=rows(3), layers=[], features=[f"{layer}:input", f"{ACTIVATION}:input"])
    assert column_of(cache, f"{layer}:input", boundary=False) == f"values of {layer}:input"
    for name in (layer, ACTIVATION):
        with pytest.raises(ValueError, match="holds"):
            column_of(cache, name, boundary=False)
    both = write(tmp_path / "both", data=rows(3), layers=[], features=[layer, f"{layer}:input"])
    assert column_of(both, layer, boundary=False) == f"values of {layer}:output"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": ["resnet.encoder.stage.1"]}, "has no module 'resnet.encoder.stage.1'; close names"),
        ({"layers": ["resnet.encoder.stages.1.layers.0.layer"]}, "does not come straight from an activation"),
        ({"features": ["resnet.nothing"]}, "has no module 'resnet.nothing'"),
        ({"features": ["resnet.embedder:middle"]}, "must end in ':input', ':output'"),
    ],
)
def test_a_wrong_name_is_refused_before_anything_is_written(tmp_path, settings, message):
    """A teacher may take a day."""
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "cache", **settings)
    assert list(tmp_path.iterdir()) == []


class Functional(nn.Module):
    """Its activation is a function."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, stride=2), nn.Linear(8, 4)

    def forward(self, images):
        return self.head(torch.relu(self.conv(images)).mean((2, 3)))


def test_a_teacher_of_any_kind_is_stored_by_named_layers(tmp_path):
    """It has no config, no names of classes, and gives plain logits."""
    torch.manual_seed(0)
    whole = write(tmp_path / "whole", Functional())
    assert whole.column(":relu#1", boundary=True) == whole.column(":relu#1:input", boundary=True)
    with pytest.raises(ValueError, match="the teacher shows no boundaries .* no activations.*layers=\\[\\]"):
        write(tmp_path / "none", nn.Sequential(nn.Flatten(), nn.Linear(768, 4)))
    cache = write(tmp_path / "cache", Functional(), layers=["conv:output"], precision="bf16")
    assert (cache.id2label, cache.classes, cache.reference["class"]) == (None, 4, "Functional")


def test_knowledge_distillation_reads_the_logits(good):
    """Every kind of logits serves it."""
    assert good.column("logits", boundary=False).name == "logits"


def test_a_teacher_in_torchscript_is_cached_by_its_logits():
    """No hook sees its layers, and none is needed for what it says at the end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)))
    pixels = torch.randn(3, 3, 2, 2)
    assert StoredLayers(scripted, CacheSettings(layers=[]), pixels).points == {}
    with pytest.raises(ValueError, match="TorchScript"):
        StoredLayers(scripted, CacheSettings(), pixels)
