"""What a student starts from is read from its tensors."""

import pytest
import tiny
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification

from hf_abkd.models.start import Start, start_of


@pytest.mark.parametrize(
    ("family", "batch_norm"),
    [
        ("resnet", True),
        ("efficientnet", True),
        ("mobilevit", True),
        ("vit", False),
        ("swin", False),
        ("convnext", False),
    ],
)
def test_fresh_models_have_random_weights(family, batch_norm):
    """A learning rate for trained weights teaches random ones nothing; some families draw the scales at random."""
    config = AutoConfig.for_model(family)
    assert start_of(AutoModelForImageClassification.from_config(config)) == Start(trained=False, batch_norm=batch_norm)


@pytest.mark.parametrize("make", [tiny.resnet, tiny.vit])
def test_a_step_of_training_is_seen_and_a_new_head_is_not(make):
    """A learning rate for random weights ruins trained ones; a name tells nothing of where weights come from."""
    student = make(4)
    student.classifier = nn.Linear(3, 4)
    assert not start_of(student).trained
    trained = make(4)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    trained(torch.rand(4, 3, 16, 16), labels=torch.arange(4)).loss.backward()
    optimizer.step()
    trained.classifier = nn.Linear(3, 4)
    assert start_of(trained).trained
    trained.eval()
    assert start_of(trained).trained


def test_weights_count_as_what_a_user_says():
    """Slices of trained weights vary as trained ones do, and are trained as random ones."""
    student = tiny.vit()
    assert start_of(student, "trained") == Start(trained=True, batch_norm=False)
    torch.nn.init.normal_(student.vit.layernorm.bias)
    assert start_of(student).trained and not start_of(student, "random").trained


def test_a_model_without_normalisation_is_told_by_its_biases():
    """There is nothing else to tell it by."""
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    nn.init.zeros_(plain[0].bias)
    assert start_of(plain) == Start(trained=False, batch_norm=False)
    nn.init.normal_(plain[0].bias)
    assert start_of(plain).trained
