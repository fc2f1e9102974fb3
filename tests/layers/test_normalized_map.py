"""A linear map with BatchNorm behind it, in one: the same numbers as the two layers by themselves."""

import copy

import pytest
import torch
from torch import nn

from hf_abkd.layers.connectors import MapConnector, TokenConnector
from hf_abkd.layers.normalized_map import normalized_map, pays


def plain(values, weight, norm):
    """The two layers, one after the other."""
    return norm((values @ weight.T).flatten(0, -2)).view(*values.shape[:-1], len(weight))


def case(momentum=0.1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    values = 3 + 2 * torch.randn(4, 5, 3, generator=generator, dtype=dtype)
    weight = torch.randn(7, 3, generator=generator, dtype=dtype)
    norm = nn.BatchNorm1d(7, momentum=momentum).to(dtype)
    with torch.no_grad():
        norm.weight.copy_(torch.rand(7, generator=generator) + 0.5)
        norm.bias.copy_(torch.randn(7, generator=generator))
    return values.requires_grad_(), weight.requires_grad_(), norm


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("training", [True, False])
def test_value_gradients_and_statistics_are_those_of_the_two_layers(training, momentum):
    """A connector with other gradients learns something else, and one with other statistics evaluates otherwise."""
    values, weight, norm = case(momentum)
    other = copy.deepcopy(norm)
    cotangent = torch.randn(4, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    results = []
    for own, run in ((norm, None), (other, plain)):
        for mode in (True, training):  # the second pass in eval mode reads what the first one left
            own.train(mode)
            if run is None:
                matrix, bias = normalized_map(values, weight, own)
                output = values @ matrix.T + bias
            else:
                output = run(values, weight, own)
        gradients = torch.autograd.grad((output * cotangent).sum(), [values, weight, *own.parameters()])
        results.append([output, *gradients, *own.buffers()])
    assert all(gradient.abs().sum() > 0 for gradient in results[1][1:5])
    assert results[1][-1] == (2 if training else 1)
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("connector", "shape"), [(MapConnector(3, 64), (2, 3, 5, 4)), (TokenConnector(3, 64), (2, 6, 3))]
)
@pytest.mark.parametrize("training", [True, False])
def test_connectors_from_few_channels_to_many_give_what_their_layers_give(connector, shape, training):
    """The shortcut is a matter of speed, and must not show in any number."""
    assert pays(3, 64)
    connector = copy.deepcopy(connector).double().train(training)
    student = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    slow = copy.deepcopy(connector)
    if isinstance(slow, MapConnector):
        expected = slow.normalization(slow.convolution(student))
    else:
        expected = slow.normalization(slow.linear(student).flatten(0, 1)).view(2, 6, 64)
    output = connector(student)
    torch.testing.assert_close(output, expected)
    ours, theirs = ((t.sin().sum(), [student, *c.parameters()]) for t, c in ((output, connector), (expected, slow)))
    for one, other in zip(torch.autograd.grad(*ours), torch.autograd.grad(*theirs), strict=True):
        assert other.abs().sum() > 0
        torch.testing.assert_close(one, other)
    assert {**connector.state_dict()}.keys() == {**slow.state_dict()}.keys()
    for name, tensor in connector.state_dict().items():
        torch.testing.assert_close(tensor, slow.state_dict()[name])


def test_float32_statistics_are_exact_far_from_zero():
    """Written as the mean of squares minus the squared mean, a variance drowns where the mean is large."""
    values, weight, norm = case(dtype=torch.float32)
    values = (values.detach() + 1000).requires_grad_()
    matrix, bias = normalized_map(values, weight, norm)
    exact = plain(values.double(), weight.double(), copy.deepcopy(norm).double())
    # What is left is the product itself, of numbers of a thousand.
    torch.testing.assert_close((values @ matrix.T + bias).double(), exact, rtol=0, atol=5e-3)
    torch.testing.assert_close(
        norm.running_var.double(), 0.9 + 0.1 * (values.double() @ weight.double().T).flatten(0, 1).var(0)
    )


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_statistics_are_in_float32_under_autocast(kind):
    """In half precision a covariance has two or three digits."""
    values, weight, norm = case(dtype=torch.float32)
    expected = normalized_map(values.to(kind).float(), weight, copy.deepcopy(norm))
    with torch.autocast("cpu", kind):
        given = normalized_map(values.to(kind), weight, norm)
    assert all(tensor.dtype is torch.float32 for tensor in given)
    torch.testing.assert_close(given, expected)


def test_what_batch_norm_refuses_is_refused():
    """None has no mean; one has no variance; and statistics over all processes are not those of one."""
    values, weight, norm = case()
    with pytest.raises(ValueError, match="needs values in training, got none"):
        normalized_map(values[:0], weight, norm)
    with pytest.raises(ValueError, match="a single value per channel.*per_device_train_batch_size of 2 or more"):
        normalized_map(values[:1, :1], weight, nn.BatchNorm1d(len(weight)).to(weight))
    with pytest.raises(TypeError, match="only a plain BatchNorm"):
        normalized_map(values, weight, nn.SyncBatchNorm(7))


def test_statistics_over_all_processes_are_left_to_their_own_module():
    """A user who converts a student's BatchNorm converts that of its connectors too."""
    connector = nn.SyncBatchNorm.convert_sync_batchnorm(MapConnector(3, 64)).eval()
    maps = torch.randn(2, 3, 4, 4)
    called = []
    connector.normalization.register_forward_hook(lambda *_: called.append(True))
    torch.testing.assert_close(connector(maps), connector.normalization(connector.convolution(maps)))
    assert len(called) == 2


def test_a_tensor_that_does_not_vary_gives_finite_gradients():
    """By rounding its variance could fall below 0, and the root of it is not a number."""
    values = torch.full((64, 3), 0.1).requires_grad_()
    _, weight, norm = case(dtype=torch.float32)
    matrix, bias = normalized_map(values, weight, norm)
    (values @ matrix.T + bias).square().sum().backward()
    assert torch.isfinite(values.grad).all() and torch.isfinite(weight.grad).all()
