import math

import pytest
import torch
from torch import nn

from hf_abkd.connectors import LinearHead, MapConnector, TokenConnector, connector_for


@pytest.mark.parametrize(
    ("student", "teacher", "kind"),
    [
        ((2, 8, 4, 4), (2, 16, 4, 4), MapConnector),
        ((2, 8, 4, 6), (2, 5, 4, 6), MapConnector),
        ((2, 9, 8), (2, 9, 16), TokenConnector),
        ((2, 8), (2, 5), LinearHead),
        ((2, 8, 1, 1), (2, 5), LinearHead),
        ((2, 8, 4, 4), (2, 8, 4, 4), nn.Identity),
        ((2, 9, 8), (2, 9, 8), nn.Identity),
        ((2, 8), (2, 8), nn.Identity),
    ],
)
def test_connects_the_two_shapes_and_passes_gradients(student, teacher, kind):
    """A connector without gradient leaves the layers before it untrained; a needless one adds weights."""
    connector = connector_for(torch.Size(student), torch.Size(teacher))
    assert type(connector) is kind
    features = torch.randn(student, generator=torch.Generator().manual_seed(0), requires_grad=True)
    output = connector(features)
    assert output.shape == teacher
    output.square().mul(torch.linspace(0, 1, output.numel()).view_as(output)).sum().backward()
    assert features.grad.abs().sum() > 0
    for name, parameter in connector.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ((2, 8, 4, 4), (2, 16, 8, 8)),
        ((2, 8, 4, 4), (2, 16, 8)),
        ((2, 9, 8), (2, 10, 8)),
        ((2, 9, 8), (2, 8)),
        ((2, 8, 4, 4), (2, 5)),
        ((2, 8), (2, 8, 4, 4)),
        ((2,), (2, 5)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(student, teacher):
    """A silent interpolation or reshape would compare units that have nothing to do with each other."""
    with pytest.raises(ValueError, match=r"no connector maps .* the term your own module as `connector`"):
        connector_for(torch.Size(student), torch.Size(teacher))


@pytest.mark.parametrize("kind", [MapConnector, TokenConnector])
def test_starts_as_in_the_paper(kind):
    """The default initialisation of torch is much smaller, and the boundary loss would start elsewhere."""
    torch.manual_seed(0)
    connector = kind(64, 128)
    weight = next(connector.parameters())
    norm = next(m for m in connector.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)))
    assert weight.std().item() == pytest.approx(math.sqrt(2 / 128), rel=0.05)
    assert weight.mean().abs() < 0.01
    assert norm.weight.eq(1).all() and norm.bias.eq(0).all()
    assert {name.rsplit(".", 1)[-1] for name, _ in connector.named_parameters()} == {"weight", "bias"}
    assert sum(p.numel() for p in connector.parameters()) == 64 * 128 + 2 * 128, "the linear map has no bias"


def test_tokens_are_mapped_as_pixels_are():
    """Statistics over the wrong axis would tie a unit's boundary to the other units of its token."""
    maps, tokens = MapConnector(3, 5), TokenConnector(3, 5)
    with torch.no_grad():
        tokens.linear.weight.copy_(maps[0].weight.flatten(1))
    features = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = maps(features).flatten(2).transpose(1, 2)
    torch.testing.assert_close(tokens(features.flatten(2).transpose(1, 2)), expected)
    torch.testing.assert_close(tokens.normalization.running_mean, maps[1].running_mean)
    torch.testing.assert_close(tokens.normalization.running_var, maps[1].running_var)
