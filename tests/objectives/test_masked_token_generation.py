import pytest
import torch

from hf_abkd.layers.connection import Side
from hf_abkd.layers.layout import Layout
from hf_abkd.objectives import MaskedTokenGeneration
from hf_abkd.objectives.objective import Known

SHAPE = (2, 3, 2, 4)


def begun(**settings):
    torch.manual_seed(0)
    objective = MaskedTokenGeneration(**settings)
    objective.begin(Known(targets=(SHAPE,)))
    return objective.double()


def maps(seed=0):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_value_is_that_of_the_paper():
    """Places that are shown must not count, and those that are hidden must not be seen by the generator."""
    objective, student, teacher = begun(share=0.25), maps(), maps(1)
    torch.nn.init.normal_(objective.hidden)
    torch.manual_seed(5)
    value = objective(student, teacher)
    torch.manual_seed(5)
    hidden = objective.hidden_places(student)[:, 0]
    assert hidden.sum((1, 2)).tolist() == [2, 2], "a quarter of eight places of each image"
    given = student.clone()
    for sample, row, column in hidden.nonzero().tolist():
        given[sample, :, row, column] = objective.hidden.detach()
    made = objective.generation(given)
    total = sum(
        (made[sample, channel, row, column] - teacher[sample, channel, row, column]) ** 2
        for sample, row, column in hidden.nonzero().tolist()
        for channel in range(3)
    )
    torch.testing.assert_close(value, total / 2 / 0.25)
    changed = student.where(~hidden[:, None], 7.0)
    torch.manual_seed(5)
    torch.testing.assert_close(objective(changed, teacher), value)


def test_other_places_are_hidden_in_each_step_and_none_in_evaluation():
    """With the same places each time a part of the image would never be generated."""
    objective = begun()
    drawn = torch.stack([objective.hidden_places(maps()) for _ in range(20)])
    assert drawn.any(0).all() and not drawn.all(0).any() and (drawn[0] != drawn[1]).any()
    evaluated = objective.eval()(maps(), maps(1))
    expected = (objective.generation(maps()) - maps(1)).square().flatten(1).sum(1).mean()
    torch.testing.assert_close(evaluated, expected)


def test_all_that_is_learnt_is_reached():
    """A run looks in evaluation mode for what no term reaches, and freezes it."""
    objective = begun().eval()
    gradients = torch.autograd.grad(objective(maps(), maps(1)), list(objective.parameters()))
    assert len(gradients) == 5 and all(gradient is not None for gradient in gradients)
    training = torch.autograd.grad(objective.train()(maps(), maps(1)), list(objective.parameters()))
    assert all(gradient.abs().sum() > 0 for gradient in training)


def test_the_connection_brings_tokens_to_the_teachers_width():
    """Special tokens have no place in the image that could be hidden."""
    objective = MaskedTokenGeneration()
    side, teacher = Side((2, 5, 4), Layout("NLC", (2, 2), 1)), Side((2, 18, 6), Layout("NLC", (4, 4), 2))
    connection = objective.connect([side], [teacher], "auto")
    assert connection.description == "linear" and connection.parameters == 4 * 6 + 6
    assert connection.connector(torch.rand(2, 5, 4)).shape == connection.target_form(torch.rand(2, 18, 6)).shape
    assert objective.connect([side], [side], "auto").parameters == 0


def test_impossible_settings_are_refused():
    """Nothing hidden would divide by 0."""
    with pytest.raises(ValueError, match=r"share must be in \(0, 1\), got 0"):
        MaskedTokenGeneration(share=0)
    with pytest.raises(RuntimeError, match="has not begun"):
        MaskedTokenGeneration()(maps(), maps())
