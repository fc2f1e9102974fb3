"""The hierarchical distance against a slow loop, and the fusion of layers against its formula."""

import pytest
import torch
from torch.nn import functional

from hf_abkd.layers.connection import Side
from hf_abkd.layers.layout import Layout
from hf_abkd.objectives import KnowledgeReview

SHAPES = [(3, 8, 8), (5, 4, 4), (6, 1, 1)]


def maps(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, *shape, generator=generator, dtype=torch.float64) for shape in SHAPES]


def mean_of_squares(first, second):
    pairs = list(zip(first.flatten().tolist(), second.flatten().tolist(), strict=True))
    return sum((a - b) ** 2 for a, b in pairs) / len(pairs)


def averaged(tensor, side):
    """Means over the cells of a grid of `side` x `side`; the sizes here divide."""
    step = tensor.shape[2] // side
    rows = [tensor[:, :, row * step : (row + 1) * step] for row in range(side)]
    cells = [[part[..., column * step : (column + 1) * step].mean((2, 3)) for column in range(side)] for part in rows]
    return torch.stack([torch.stack(row, -1) for row in cells], -2)


def test_the_value_is_that_of_the_paper():
    """A level that is left out, or weights that are not divided by their sum, would weigh layers otherwise."""
    student, teacher = maps(), maps(1)
    expected = 0.0
    for one, other in zip(student, teacher, strict=True):
        levels = [side for side in (4, 2, 1) if side < one.shape[2]]
        value = mean_of_squares(one, other)
        for number, side in enumerate(levels):
            value += 0.5 ** (number + 1) * mean_of_squares(averaged(one, side), averaged(other, side))
        expected += value / sum(0.5**number for number in range(len(levels) + 1))
    assert KnowledgeReview()(student, teacher).item() == pytest.approx(expected, rel=1e-9)


def connected(width=None):
    sides = [Side((2, 3, 8, 8)), Side((2, 17, 4), Layout("NLC", (4, 4), 1)), Side((2, 6))]
    teacher = [Side((2, 7, 4, 4)), Side((2, 9, 2, 2)), Side((2, 10))]
    torch.manual_seed(0)
    connection = KnowledgeReview(width=width).connect(sides, teacher, "auto")
    return connection, [torch.randn(side.shape, requires_grad=True) for side in sides]


def test_layers_are_fused_from_the_deepest_to_the_first():
    """In the other order the first layer would learn from itself alone, and the deepest from all."""
    connection, tensors = connected(width=5)
    fused = connection.connector.eval()(tensors)
    assert [tuple(tensor.shape) for tensor in fused] == [(2, 7, 4, 4), (2, 9, 2, 2), (2, 10, 1, 1)]
    assert connection.target_form([torch.rand(2, 7, 4, 4), torch.rand(2, 9, 2, 2), torch.rand(2, 10)])[2].ndim == 4
    for layer in range(3):
        reached = torch.autograd.grad(fused[layer].sum(), tensors, allow_unused=True, retain_graph=True)
        assert [gradient is not None for gradient in reached] == [number >= layer for number in range(3)]
    second, deepest = connection.connector.fusions[1], connection.connector.fusions[2]
    own = second.inner(tensors[1][:, 1:].transpose(1, 2).reshape(2, 4, 4, 4))
    behind = deepest.inner(tensors[2][..., None, None]).expand(-1, -1, 4, 4)
    shares = second.shares(torch.cat([own, behind], 1)).sigmoid()
    mixed = functional.interpolate(own * shares[:, :1] + behind * shares[:, 1:], size=(2, 2), mode="nearest")
    torch.testing.assert_close(fused[1], second.outer(mixed))


def test_all_that_fuses_is_trained_and_its_width_follows_the_deepest_layer():
    """A part without a gradient would stay as it was drawn, and DDP would wait for it."""
    connection, tensors = connected()
    assert connection.connector.fusions[0].inner[0].out_channels == 6 and connection.parameters > 0
    sum(tensor.square().sum() for tensor in connection.connector(tensors)).backward()
    assert all(parameter.grad is not None for parameter in connection.connector.parameters())
    with pytest.raises(ValueError, match="a connector of its own; connector='map'"):
        KnowledgeReview().connect([Side((2, 6))], [Side((2, 6))], "map")
    with pytest.raises(ValueError, match="no grid"):
        KnowledgeReview().connect([Side((2, 5, 6), Layout("NLC"))], [Side((2, 6))], "auto")
