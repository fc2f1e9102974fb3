"""The distance of factors against a slow loop, and a paraphraser that is trained once and then stays."""

import math

import pytest
import torch

from hf_abkd.layers.connection import Side
from hf_abkd.layers.paraphraser import Paraphraser
from hf_abkd.objectives import FactorTransfer
from hf_abkd.objectives.factor_transfer import Paraphrasing
from hf_abkd.objectives.objective import Known


def factors(seed):
    return torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def directions(tensor):
    return [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in tensor.flatten(1).tolist()]


def test_the_value_is_that_of_the_paper():
    """A norm over the channels of a place, or squares in the place of absolute values, would weigh it otherwise."""
    student, teacher = factors(0), factors(1)
    pairs = zip(directions(student), directions(teacher), strict=True)
    differences = [abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=True)]
    assert FactorTransfer()(student, teacher).item() == pytest.approx(sum(differences) / len(differences), rel=1e-9)


def connected(paraphraser):
    objective = FactorTransfer(paraphraser=paraphraser)
    return objective.connect([Side((2, 3, 8, 8))], [Side((2, 6, 4, 4))], "auto")


def test_student_and_teacher_come_to_the_same_factors():
    """Half of the teacher's channels on the teacher's grid, as published."""
    connection = connected(Paraphraser())
    assert connection.connector(torch.rand(2, 3, 8, 8)).shape == (2, 3, 4, 4)
    assert connection.target_form.eval()(torch.rand(2, 6, 4, 4)).shape == (2, 3, 4, 4)


def test_the_paraphraser_learns_in_its_own_objective_and_stays_in_the_other():
    """Trained with the student, its factors would become what is easy to translate: constants."""
    paraphraser = Paraphraser()
    connection, learning = connected(paraphraser), Paraphrasing(paraphraser=paraphraser)
    learning.begin(Known(((2, 6, 4, 4),)))
    maps = torch.rand(2, 6, 4, 4)
    with pytest.raises(RuntimeError, match="paraphraser was never trained, .* `factor_transfer`"):
        connection.target_form.train()(maps)
    value = learning.train()(torch.zeros(2, 3), maps)
    torch.testing.assert_close(value, torch.nn.functional.mse_loss(paraphraser(maps), maps))
    value.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in paraphraser.parameters())
    before = {name: tensor.clone() for name, tensor in paraphraser.state_dict().items()}
    found = connection.target_form.train()(maps)
    assert not found.requires_grad
    assert all(torch.equal(tensor, before[name]) for name, tensor in paraphraser.state_dict().items())


def test_a_paraphraser_is_one_of_one_layer():
    """With other channels it would be made anew, and what was learnt would be lost."""
    paraphraser = Paraphraser(rate=0.25)
    paraphraser.build(8)
    encoder = paraphraser.encoder
    paraphraser.build(8)
    assert paraphraser.encoder is encoder and paraphraser.factors == 2
    with pytest.raises(ValueError, match="one of 8 channels, and this layer has 6"):
        connected(paraphraser)
    with pytest.raises(ValueError, match="rate must be positive"):
        Paraphraser(rate=0)
    with pytest.raises(ValueError, match="translator of its own; connector='map'"):
        FactorTransfer().connect([Side((2, 3, 8, 8))], [Side((2, 6, 4, 4))], "map")
