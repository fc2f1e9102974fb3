"""Likelihood of the teacher's responses, against a slow loop, and the regressor that predicts their mean."""

import math

import pytest
import torch

from hf_abkd.layers.connection import Side
from hf_abkd.layers.layout import Layout
from hf_abkd.objectives import Hint, VariationalInformationDistillation
from hf_abkd.objectives.objective import Known


def maps(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def begun(*shape, **settings):
    objective = VariationalInformationDistillation(**settings)
    objective.begin(Known(targets=(shape,)))
    return objective


def test_value_is_the_negative_logarithm_of_a_gaussian():
    """A standard deviation in the place of a variance, or of another channel, is another likelihood."""
    objective = begun(3, 2, 2, 3).double()
    with torch.no_grad():
        objective.scale.copy_(torch.tensor([-1.0, 2.0]))
    student, teacher = maps(3, 2, 2, 3), maps(3, 2, 2, 3, seed=1)
    total = 0.0
    for channel, scale in enumerate((-1.0, 2.0)):
        deviation = math.sqrt(math.log1p(math.exp(scale)) + 1e-5)
        of_channel = [tensor[:, channel].flatten().tolist() for tensor in (student, teacher)]
        for mean, value in zip(*of_channel, strict=True):
            density = math.exp(-((value - mean) ** 2) / (2 * deviation**2)) / (deviation * math.sqrt(2 * math.pi))
            total -= math.log(density * math.sqrt(2 * math.pi))
    assert objective(student, teacher).item() == pytest.approx(total / 36, rel=1e-10)


def test_it_begins_with_the_variance_that_is_given():
    """With the variance v it is half the mean of the squares over v, and of log v."""
    student, teacher = maps(2, 3, 2, 2), maps(2, 3, 2, 2, seed=1)
    value = begun(2, 3, 2, 2, variance=4.0).double()(student, teacher)
    expected = (Hint()(student, teacher) / 4 + math.log(4)) / 2
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)


def test_the_variance_of_each_channel_learns_its_error():
    """Channels that the student cannot predict are to count less."""
    objective = begun(2, 2, 1, 1, variance=1.0)
    student = torch.zeros(2, 2, 1, 1)
    teacher = torch.tensor([[0.5, 2.0], [-0.5, -2.0]])[:, :, None, None]
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        objective(student, teacher).backward()
        optimizer.step()
    assert torch.nn.functional.softplus(objective.scale).tolist() == pytest.approx([0.25, 4.0], rel=0.05)


def test_the_regressor_meets_maps_tokens_and_vectors():
    """Three layers as wide as the teacher's, on its grid."""
    tokens = Side((2, 5, 8), Layout("NLC", (2, 2), 1))
    objective = VariationalInformationDistillation()
    connected = objective.connect([tokens], [Side((2, 6, 4, 4))], "auto")
    assert connected.connector(torch.rand(2, 5, 8)).shape == (2, 6, 4, 4)
    assert connected.parameters == 8 * 6 + 6 * 6 + 6 * 6
    connected = objective.connect([Side((2, 8))], [Side((2, 5))], "auto")
    assert connected.connector(torch.rand(2, 8)).shape == (2, 5)
    with pytest.raises(ValueError, match="lies on no grid"):
        VariationalInformationDistillation().connect([Side((2, 8))], [tokens], "auto")
    same = objective.connect([tokens], [Side((2, 5, 6), tokens.layout)], "tokens")
    assert same.description == "linear + BatchNorm"


@pytest.mark.parametrize("shape", [(2, 6, 4, 4), (2, 5, 6), (2, 6)])
def test_there_is_a_variance_for_each_channel_of_the_teacher(shape):
    """Those of positions would be as many weights as the image has; channels lie last in tokens."""
    objective = begun(*shape)
    assert objective.scale.shape == (6,) and objective(maps(*shape).float(), maps(*shape, seed=1).float()).isfinite()


def test_it_has_to_have_begun():
    """The number of channels is known when a term is connected, whatever connector it has."""
    with pytest.raises(RuntimeError, match="has not begun"):
        VariationalInformationDistillation()(torch.rand(2, 3), torch.rand(2, 3))
    with pytest.raises(ValueError, match="variance must be finite and above 1e-05"):
        VariationalInformationDistillation(variance=0.0)
