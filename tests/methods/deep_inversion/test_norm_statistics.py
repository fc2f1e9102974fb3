"""The distances of a batch to the statistics of BatchNorm layers."""

import pytest
import torch
from tiny import resnet, vit
from torch import nn

from hf_abkd.methods.deep_inversion.norm_statistics import NormStatistics, batch_norms, channel_moments


def trained_norm(channels, kind=nn.BatchNorm2d):
    layer = kind(channels).double().eval()
    generator = torch.Generator().manual_seed(1)
    layer.running_mean.copy_(torch.randn(channels, generator=generator))
    layer.running_var.copy_(torch.rand(channels, generator=generator) + 0.5)
    return layer


def distance_by_loops(values, mean, variance):
    """‖mean − running mean‖ + ‖variance − running variance‖, number by number."""
    samples, channels = values.shape[0], values.shape[1]
    mean_gap = variance_gap = 0.0
    for channel in range(channels):
        numbers = [v for n in range(samples) for v in values[n, channel].reshape(-1)]
        own = sum(numbers) / len(numbers)
        spread = sum((number - own) ** 2 for number in numbers) / len(numbers)
        mean_gap = mean_gap + (own - mean[channel]) ** 2
        variance_gap = variance_gap + (spread - variance[channel]) ** 2
    return mean_gap**0.5 + variance_gap**0.5


@pytest.mark.parametrize(("kind", "shape"), [(nn.BatchNorm2d, (4, 3, 2, 3)), (nn.BatchNorm1d, (5, 3))])
def test_distances_and_their_gradients_are_those_of_the_formula(kind, shape):
    """Another reduction would weigh wide layers otherwise, and another gradient find other images."""
    layer = trained_norm(3, kind)
    values = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    with NormStatistics(nn.Sequential(layer)) as statistics:
        layer(values)
        found = statistics.take()
    expected = distance_by_loops(values, layer.running_mean, layer.running_var)
    (expected_gradient,) = torch.autograd.grad(expected, [values])
    (gradient,) = torch.autograd.grad(found.sum(), [values])
    assert expected_gradient.abs().max() > 1e-3
    # Computed in float32.
    torch.testing.assert_close(found.double(), expected.detach()[None], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-6)


def test_a_batch_with_exactly_the_known_statistics_has_finite_gradients():
    """The norm of zero has no gradient; a NaN there would end an inversion at its goal."""
    layer = nn.BatchNorm2d(2).eval()
    values = torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1).repeat(1, 2, 1, 1).requires_grad_()
    with NormStatistics(nn.Sequential(layer)) as statistics:
        layer(values)
        found = statistics.take()
    assert found.item() == 0
    found.sum().backward()
    assert torch.equal(values.grad, torch.zeros_like(values))


def test_a_small_variance_around_a_large_mean_is_found():
    """As a difference of squares it would be lost in rounding: of 10^6 float32 knows only what is larger than 0.06."""
    values = torch.randn(64, 2, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.01 + 1000
    mean, variance = channel_moments(values)
    expected = values.double()
    torch.testing.assert_close(mean.double(), expected.mean((0, 2, 3)))
    torch.testing.assert_close(variance.double(), expected.var((0, 2, 3), unbiased=False), rtol=1e-2, atol=0)


def test_features_are_the_last_input_in_units_of_what_the_layer_knows():
    """Diversity compares images in these units."""
    layer = trained_norm(3)
    values = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    with NormStatistics(nn.Sequential(layer)) as statistics:
        layer(values)
        features = statistics.features()
        statistics.take()
        with pytest.raises(RuntimeError, match="called none"):
            statistics.features()
    expected = (values.mean((2, 3)) - layer.running_mean) / (layer.running_var + layer.eps).sqrt()
    torch.testing.assert_close(features.double(), expected, rtol=1e-5, atol=1e-5)


def test_no_hook_stays_after_an_error():
    """It would measure, and hold the graph of, every later batch of a training run."""
    model = resnet()

    def fail():
        with NormStatistics(model):
            assert any(module._forward_pre_hooks for module in model.modules())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_statistics_of_the_model_do_not_move():
    """They are what the images are made to agree with."""
    model = resnet().eval()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with NormStatistics(model) as statistics:
        model(torch.randn(4, 3, 16, 16))
        assert len(statistics.take()) == len(batch_norms(model)) > 3
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_a_pass_that_calls_no_layer_is_an_error():
    """Without the distances the images would be adversarial noise."""
    with NormStatistics(resnet()) as statistics, pytest.raises(RuntimeError, match="called none of its"):
        statistics.take()


def test_a_model_without_batch_norm_is_refused_with_what_to_use():
    """A ViT would otherwise be inverted by its classes alone."""
    with pytest.raises(ValueError, match=r"ViTForImageClassification holds no statistics .* ResNet, RegNet"):
        batch_norms(vit())


def test_layers_that_keep_no_statistics_are_refused():
    """In eval mode they normalise by the batch, so there is nothing to agree with."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    with pytest.raises(ValueError, match="1 BatchNorm layers keep none"):
        batch_norms(model)
