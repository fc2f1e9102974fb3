import pytest
import torch
import traced
from torch import nn
from transformers.modeling_outputs import BaseModelOutput, ImageClassifierOutput

from hf_abkd.models.outputs import logits_of

LOGITS = torch.arange(6.0).view(2, 3)


class Config:
    def __init__(self, classes):
        self.num_labels = classes


class Model(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.config = Config(classes)


@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        (LOGITS, torch.zeros(2, 5)),
        [LOGITS],
        {"logits": LOGITS, "hidden": torch.zeros(2, 3)},
        ImageClassifierOutput(loss=torch.zeros(()), logits=LOGITS),
        BaseModelOutput(last_hidden_state=LOGITS),
    ],
)
def test_logits_are_found_in_what_classifiers_return(output):
    """A plain torch model and PP-LCNet have no `.logits`."""
    assert logits_of(output, Model(), "student") is LOGITS


@pytest.mark.parametrize(
    "output",
    [
        torch.zeros(2, 3, 4),
        (),
        (torch.zeros(2, 3, 4), LOGITS),
        None,
        {"last_hidden_state": torch.zeros(2, 5)},
        {"one": LOGITS, "other": LOGITS.clone()},
        {"last_hidden_state": torch.zeros(2, 3, 4)},
        {"logits": None},
    ],
)
def test_what_could_be_something_else_is_refused(output):
    """Features or boxes taken for logits would be trained on without an error."""
    with pytest.raises(TypeError, match=r"the teacher Model must return logits of shape \(N, K\), .*; it returned"):
        logits_of(output, Model(), "teacher")


def test_without_a_config_no_number_of_classes_is_made_up():
    """Any matrix would pass for logits."""
    with pytest.raises(TypeError, match="must return logits"):
        logits_of({"features": LOGITS}, nn.Identity(), "student")


@pytest.mark.parametrize("name", ["pp_lcnet", "vit", "deit"])
def test_families_return_their_logits(name):
    """The one family with another name for them is a family like the others."""
    model = traced.build(name, classes=7)
    with torch.no_grad():
        assert logits_of(model(traced.images()), model, "student").shape == (3, 7)


def test_whole_numbers_are_no_logits():
    """Votes or rounded answers would be softened as if they were logits."""
    with pytest.raises(TypeError, match=r"it returned a tensor of shape \(2, 3\), torch.int64"):
        logits_of(torch.ones(2, 3, dtype=torch.int64), nn.Identity(), "teacher")
