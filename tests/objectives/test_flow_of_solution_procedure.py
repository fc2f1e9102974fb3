import itertools

import pytest
import torch

from hf_abkd.layers.connection import Side
from hf_abkd.layers.connectors import MapConnector
from hf_abkd.layers.layout import Layout
from hf_abkd.objectives import FlowOfSolutionProcedure


def maps(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, *shape, generator=generator, dtype=torch.float64) for shape in shapes]


def by_hand(student, teacher):
    """The mean square of the differences, product by product."""
    total, count = 0.0, 0
    for sample in range(3):
        first, second = (side[0].shape[1] for side in (student, student[::-1]))
        for one, other in itertools.product(range(first), range(second)):
            values = []
            for upper, lower in (student, teacher):
                rows, columns = upper.shape[2:]
                products = [
                    upper[sample, one, row, column] * lower[sample, other, row, column]
                    for row in range(rows)
                    for column in range(columns)
                ]
                values.append(sum(products) / len(products))
            total, count = total + (values[0] - values[1]) ** 2, count + 1
    return total / count


def test_value_is_that_of_the_paper():
    """A product over the channels, or a mean over the wrong dimension, would be another matrix of a fitting shape."""
    student, teacher = maps((2, 3, 2), (4, 3, 2)), maps((2, 3, 2), (4, 3, 2), seed=1)
    torch.testing.assert_close(FlowOfSolutionProcedure()(student, teacher), by_hand(student, teacher))


def test_the_larger_map_is_pooled_to_the_smaller():
    """Layers before and after a stride have other grids; a mean in the place of the maximum is another method."""
    student, teacher = maps((2, 4, 4), (4, 2, 2)), maps((2, 2, 2), (4, 4, 4), seed=1)
    pool = torch.nn.MaxPool2d(2)
    expected = by_hand((pool(student[0]), student[1]), (teacher[0], pool(teacher[1])))
    torch.testing.assert_close(FlowOfSolutionProcedure()(student, teacher), expected)


def test_models_of_other_grids_are_compared():
    """Only the channels have to agree: the mean over positions is the same for every image size."""
    small = maps((2, 2, 2), (4, 2, 2))
    large = [tensor.repeat_interleave(3, 2).repeat_interleave(3, 3) for tensor in small]
    assert FlowOfSolutionProcedure()(small, large).item() == pytest.approx(0.0, abs=1e-12)


def test_equal_flows_of_other_features_are_worth_nothing():
    """The features themselves are free: what is learnt is how one layer follows from the other."""
    student = maps((2, 3, 3), (4, 3, 3))
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    moved = [tensor.flatten(2)[..., order].view_as(tensor) for tensor in student]
    assert FlowOfSolutionProcedure()(student, moved).item() == pytest.approx(0.0, abs=1e-12)


def test_what_is_no_pair_of_maps_is_refused():
    """Three layers, or vectors, would give a matrix of something else."""
    objective, pair = FlowOfSolutionProcedure(), maps((2, 3, 3), (4, 3, 3))
    with pytest.raises(ValueError, match="needs two maps .* of the student, got "):
        objective(maps((2, 3, 3)), pair)
    with pytest.raises(ValueError, match="needs two maps .* of the teacher, got "):
        objective(pair, [tensor.flatten(1) for tensor in pair])
    with pytest.raises(ValueError, match="of 2 and 4 channels with layers of 2 and 5; give the term connector='map'"):
        objective(pair, maps((2, 3, 3), (5, 3, 3)))


def test_the_connection_makes_maps_of_equal_channels():
    """Tokens with a class token, or other widths, would be compared place by place with something else."""
    objective = FlowOfSolutionProcedure()
    tokens = Side((2, 5, 8), Layout("NLC", (2, 2), 1))
    vectors, narrow, wide = Side((2, 8)), Side((2, 8, 4, 4)), Side((2, 12, 2, 2))
    same = objective.connect([narrow, narrow], [tokens, narrow], "auto")
    assert same.parameters == 0 and same.description == "identity"
    formed = same.target_form([torch.zeros(2, 5, 8), torch.zeros(2, 8, 4, 4)])
    assert [tuple(tensor.shape) for tensor in formed] == [(2, 8, 2, 2), (2, 8, 4, 4)]
    with pytest.raises(ValueError, match="the student's has 8, the teacher's 12; .* connector='map'"):
        objective.connect([narrow, narrow], [narrow, wide], "identity")
    found = objective.connect([narrow, narrow], [narrow, wide], "auto")
    assert found.description == "identity, 1x1 convolution + BatchNorm"
    mapped = objective.connect([narrow, tokens], [wide, wide], "map")
    assert [type(module) for module in mapped.connector] == [MapConnector, MapConnector]
    shapes = [tuple(tensor.shape) for tensor in mapped.connector([torch.rand(2, 8, 4, 4), torch.rand(2, 5, 8)])]
    assert shapes == [(2, 12, 4, 4), (2, 12, 2, 2)] and mapped.parameters > 0
    with pytest.raises(ValueError, match="'identity' or 'map', not by 'linear'"):
        objective.connect([narrow, narrow], [wide, wide], "linear")
    with pytest.raises(ValueError, match="the teacher's tensor of shape .* lies on no grid"):
        objective.connect([narrow, narrow], [narrow, vectors], "auto")
