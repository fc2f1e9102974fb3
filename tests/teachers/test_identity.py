"""A teacher is told from every other one by its weights, without a copy of them."""

import copy

import pytest
import tiny
import torch
from torch import nn

from hf_abkd.teachers.identity import fingerprint, reference


class Net(nn.Module):
    """A plain module with a BatchNorm."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.bn = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)


def test_fingerprint_tells_equal_from_changed():
    """A resumed run with another teacher would mix two teachers' targets without a word."""
    model = tiny.resnet()
    first = fingerprint(model)
    assert first == fingerprint(copy.deepcopy(model)) == fingerprint(tiny.resnet())
    assert first == fingerprint(copy.deepcopy(model).to(memory_format=torch.channels_last).train())
    assert first != fingerprint(tiny.resnet(seed=1))


def test_fingerprint_changes_with_one_bit():
    """A rounded sum would not see the smallest change."""
    model = tiny.resnet()
    before = fingerprint(model)
    with torch.no_grad():
        weight = model.classifier[1].weight.view(torch.int32)
        weight[0, 0] ^= 1
        changed = fingerprint(model)
        weight[0, 0] ^= 1
    assert before != changed
    assert before == fingerprint(model)


@pytest.mark.parametrize("buffer", ["running_mean", "num_batches_tracked"])
def test_fingerprint_changes_with_a_buffer(buffer):
    """BatchNorm statistics are as much of the teacher as its weights."""
    model = Net()
    before = fingerprint(model)
    getattr(model.bn, buffer).add_(1)
    assert fingerprint(model) != before


def test_fingerprint_sees_names_types_and_shapes():
    """The same bytes under another name or shape are another model."""

    def one(name, tensor):
        model = nn.Module()
        model.register_buffer(name, tensor)
        return fingerprint(model)

    variants = [
        one("a", torch.zeros(4)),
        one("b", torch.zeros(4)),
        one("a", torch.zeros(2, 2)),
        one("a", torch.zeros(4, dtype=torch.int32)),
        one("a", torch.zeros(8, dtype=torch.bfloat16)),
        one("a", torch.zeros(0)),
        one("a", torch.tensor(True)),
    ]
    assert len(set(variants)) == len(variants)


def test_reference_identifies_without_copying():
    """A checkpoint and a model card hold this in the place of the teacher."""
    model = tiny.resnet()
    model.config._name_or_path = "me/teacher"
    assert reference(model) == {
        "class": "ResNetForImageClassification",
        "name_or_path": "me/teacher",
        "fingerprint": fingerprint(model),
    }
    assert reference(Net())["name_or_path"] == ""
