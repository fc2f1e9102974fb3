"""BatchNorm with one value per channel."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from hf_abkd.layers.connectors import MapConnector
from hf_abkd.layers.single_values import by_running_statistics


def with_statistics(module):
    """A module in training whose BatchNorm has seen batches."""
    module.train()
    for _ in range(3):
        module(torch.randn(8, 3, 1, 1))
    return module


def test_one_image_is_normalised_by_the_running_statistics_which_stay():
    """torch refuses it: a run of 9 rows in batches of 4 ended in an error after the second step of its first epoch."""
    norm = with_statistics(nn.BatchNorm2d(3))
    mean, variance = norm.running_mean.clone(), norm.running_var.clone()
    image = torch.randn(1, 3, 1, 1, requires_grad=True)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        norm(image)
    with by_running_statistics(norm):
        given = norm(image)
    torch.testing.assert_close(given, functional.batch_norm(image, mean, variance, norm.weight, norm.bias))
    given.sum().backward()
    assert image.grad.abs().sum() > 0 and norm.weight.grad is not None
    assert norm.training and not norm._forward_pre_hooks
    assert torch.equal(norm.running_mean, mean) and torch.equal(norm.running_var, variance)


def test_one_image_with_a_larger_map_keeps_its_own_statistics():
    """Runs in which nothing was wrong must not change."""
    norm, image = with_statistics(nn.BatchNorm2d(3)), torch.randn(1, 3, 2, 2)
    with by_running_statistics(norm):
        given = norm(image)
    torch.testing.assert_close(given.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)


def test_a_frozen_batch_norm_stays_frozen_and_the_mode_comes_back_after_an_error():
    """Frozen statistics must not move in later batches."""
    frozen, free = with_statistics(nn.BatchNorm2d(3)).eval(), with_statistics(nn.BatchNorm2d(3))
    with pytest.raises(RuntimeError, match="stop"), by_running_statistics(nn.Sequential(frozen, free)):
        free(torch.randn(1, 3, 1, 1))
        raise RuntimeError("stop")
    assert not frozen.training and free.training and not free._forward_pre_hooks


@pytest.mark.parametrize("width", [4, 64])
def test_a_connector_takes_one_image(width):
    """The wide one computes its statistics by a way of its own."""
    connector = with_statistics(MapConnector(3, width))
    image = torch.randn(1, 3, 1, 1)
    with by_running_statistics(connector):
        given = connector(image)
    torch.testing.assert_close(given, connector.eval()(image))


def test_batches_of_one_from_the_beginning_are_refused():
    """There is nothing to normalise by: the layer would pass on what it is given, and nobody would know."""
    norm = nn.BatchNorm2d(3)
    with pytest.raises(ValueError, match="per_device_train_batch_size of 2 or more"), by_running_statistics(norm):
        norm(torch.randn(1, 3, 1, 1))
