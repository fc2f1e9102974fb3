"""Which units of a layer respond."""

import numpy as np
import pytest
import torch
from torch import nn

from hf_abkd.layers.unit_activity import unit_activity


@pytest.fixture
def model():
    """A convolution whose second channel is always off and whose third is on for one pixel, before an in-place ReLU."""
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(inplace=True))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, 1.0, 1.0]).view(3, 1, 1, 1))
        model[0].bias.copy_(torch.tensor([1.0, -100.0, -0.9]))
    return model


def test_a_unit_is_dead_that_no_image_switches_on(model):
    """A unit that one image in two batches switches on is alive, however seldom."""
    images = torch.zeros(4, 1, 2, 2)
    images[3, 0, 1, 1] = 1.0
    found = unit_activity(model, {"1": "NCHW"}, model, images.split(2))["1"]
    assert found.on.tolist() == [True, False, True] and found.dead_share == pytest.approx(1 / 3)
    # What an in-place activation leaves has no value below 0.
    assert found.responses.min() < -99 and len(found.responses) == 48
    assert found.deviations().std() == pytest.approx(1, rel=1e-5)
    assert not model[1]._forward_pre_hooks


def test_without_an_order_each_number_is_a_unit(model):
    """Channels that are taken for positions make dead units of living ones."""
    found = unit_activity(model, {"1": None}, model, [torch.zeros(2, 1, 2, 2)])["1"]
    assert found.on.reshape(3, 4).all(1).tolist() == [True, False, False]


def test_what_cannot_be_measured_is_refused(model):
    """A layer without a boundary has no dead units, which is not the same as none."""
    with pytest.raises(ValueError, match="no image"):
        unit_activity(model, {"1": "NCHW"}, model, [])
    with pytest.raises(ValueError, match="absent"):
        unit_activity(model, {"absent": None}, model, [torch.zeros(1, 1, 2, 2)])


def test_a_large_layer_is_sampled():
    """All responses of a layer to all images do not fit into the memory."""
    layer = nn.Sequential(nn.ReLU())
    activity = unit_activity(layer, {"0": "NC"}, layer, [torch.randn(50, 1000)] * 2)["0"]
    assert 20_000 <= len(activity.responses) <= 40_000 and activity.on.shape == (1000,)
    assert np.isfinite(activity.responses).all()


def test_responses_are_counted_toward_the_side_of_the_teachers_at_their_place():
    """Paired by the wrong places, a student that agrees everywhere looks like one that guesses."""
    layer = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    images = torch.randn(6, 3, 32, 40)
    ours, same = (unit_activity(layer, {"1": "NCHW"}, layer, images.split(2))["1"] for _ in range(2))
    toward = ours.toward(same)
    assert (toward >= 0).all() and toward == pytest.approx(abs(ours.deviations()))
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    with torch.no_grad():
        other[0].weight.copy_(-layer[0].weight)
        other[0].bias.copy_(-layer[0].bias)
    opposite = unit_activity(other, {"1": "NCHW"}, other, images.split(2))["1"]
    assert (opposite.toward(ours) <= 0).all() and ours.shape == (4, 30, 38)
    wider = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    assert ours.toward(unit_activity(wider, {"1": "NCHW"}, wider, images.split(2))["1"]) is None
