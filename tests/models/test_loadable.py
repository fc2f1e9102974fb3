"""Whether what is saved of a student is loaded as the student that it was."""

from typing import ClassVar

import pytest
import torch
from tiny import resnet
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification, ResNetModel, ResNetPreTrainedModel

from hf_abkd.models.loadable import check_loadable


class Twins(ResNetForImageClassification):
    """A head whose weight a second one shares, undeclared."""

    def __init__(self, config):
        super().__init__(config)
        self.twin = nn.Linear(config.hidden_sizes[-1], config.num_labels)
        self.twin.weight = self.classifier[1].weight


class Declared(ResNetPreTrainedModel):
    """The same as transformers declares it."""

    _tied_weights_keys: ClassVar = {"twin.weight": "head.weight"}

    def __init__(self, config):
        super().__init__(config)
        self.resnet = ResNetModel(config)
        self.head, self.twin = (nn.Linear(config.hidden_sizes[-1], config.num_labels) for _ in range(2))
        self.post_init()


class Slices(ResNetForImageClassification):
    """Two parameters that are parts of one tensor, with so many rows in common."""

    in_common = 0

    def __init__(self, config):
        super().__init__(config)
        both = torch.randn(8, 16)
        self.first, self.second = nn.Parameter(both[: 4 + self.in_common]), nn.Parameter(both[4:])


class Overlapping(Slices):
    in_common = 1


class ExtraState(ResNetForImageClassification):
    """A module that keeps what is no tensor."""

    def get_extra_state(self):
        return {"steps": 1}

    def set_extra_state(self, state):
        pass


class Demanding(ResNetForImageClassification):
    """A class that needs more than a config."""

    def __init__(self, config, width):
        super().__init__(config)


def tiny(kind=ResNetForImageClassification, *more):
    return kind(resnet().config, *more)


def changed(change):
    student = tiny()
    change(student)
    return student


def deeper(student):
    student.classifier = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))


WRONG = {
    "twins": (lambda: tiny(Twins), "has 'classifier.1.weight' and 'twin.weight' in the same memory.*a clone"),
    "overlapping": (lambda: tiny(Overlapping), "has 'first' and 'second' in the same memory"),
    "extra state": (lambda: tiny(ExtraState), r"holds what safetensors cannot \(_extra_state\)"),
    "expanded": (
        lambda: changed(lambda s: s.register_buffer("wide", torch.ones(4, 1).expand(4, 8))),
        r"expanded \(wide\).*clone",
    ),
    "another head": (lambda: changed(deeper), r"it has classifier\.3\.bias, classifier\.3\.weight; it has in another"),
    "normed weights": (
        lambda: changed(lambda s: nn.utils.parametrizations.weight_norm(s.classifier[1])),
        r"original1; it lacks classifier\.1\.weight",
    ),
    "demanding": (lambda: tiny(Demanding, 8), "cannot be built from its config.*'width'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_student_that_would_not_be_loaded_as_it_is_is_refused(case):
    """It trained, and failed at the first save, when it was resumed, or with whoever downloaded it."""
    make, message = WRONG[case]
    student = make()
    state = torch.random.get_rng_state()
    with pytest.raises(ValueError, match=f"the student {type(student).__name__} .*{message}"):
        check_loadable(student)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("kind", [Declared, Slices])
def test_a_student_that_is_taken_comes_back_from_disk_whole(tmp_path, kind):
    """What is taken must really be loaded; one that is always refused would pass the test above."""
    config = ResNetConfig.from_dict({**resnet().config.to_dict(), "tie_word_embeddings": True})
    student = kind(config)
    check_loadable(student)
    student.save_pretrained(tmp_path)
    loaded, info = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in student.state_dict().items())
    assert kind is Slices or loaded.twin.weight is loaded.head.weight
