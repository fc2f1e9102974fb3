import math

import pytest
import torch

from hf_abkd.objectives import KnowledgeDistillation


def make_pair(scale=2.0):
    generator = torch.Generator().manual_seed(0)
    student = scale * torch.randn(4, 6, generator=generator, dtype=torch.float64)
    teacher = scale * torch.randn(4, 6, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def softmax(logits, temperature):
    powers = [math.exp(logit / temperature) for logit in logits]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("temperature", [1.0, 3.0, 20.0])
@pytest.mark.parametrize("squared", [True, False])
def test_equals_a_loop_over_the_classes(temperature, squared):
    """The divergence has a direction: with the two swapped, training still runs and learns something else."""
    student, teacher = make_pair()
    expected = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        ours, theirs = softmax(s, temperature), softmax(t, temperature)
        expected += sum(p * (math.log(p) - math.log(q)) for p, q in zip(theirs, ours, strict=True)) / len(student)
    expected *= temperature**2 if squared else 1
    objective = KnowledgeDistillation(temperature=temperature, temperature_squared=squared)
    assert objective(student, teacher).item() == pytest.approx(expected, rel=1e-9)


def test_gradient_is_the_difference_of_the_probabilities():
    """The closed form of the gradient is what Hinton et al. argue with."""
    student, teacher = make_pair()
    (gradient,) = torch.autograd.grad(KnowledgeDistillation(temperature=3.0)(student, teacher), student)
    expected = 3.0 * ((student / 3).softmax(1) - (teacher / 3).softmax(1)) / len(student)
    torch.testing.assert_close(gradient, expected.detach())


def test_the_squared_temperature_keeps_the_size_of_the_gradient():
    """Without it the gradient shrinks with the squared temperature, and the weight beside the labels is another."""
    student, teacher = make_pair(scale=0.1)
    sizes = {}
    for squared in (True, False):
        for temperature in (4.0, 40.0):
            objective = KnowledgeDistillation(temperature=temperature, temperature_squared=squared)
            sizes[squared, temperature] = torch.autograd.grad(objective(student, teacher), student)[0].norm().item()
    assert sizes[True, 40.0] == pytest.approx(sizes[True, 4.0], rel=0.05)
    assert sizes[False, 40.0] == pytest.approx(sizes[False, 4.0] / 100, rel=0.05)
    assert sizes[True, 4.0] == pytest.approx(16 * sizes[False, 4.0])


def test_equal_predictions_cost_nothing():
    """A shift of all logits of a sample changes no probability."""
    _, teacher = make_pair()
    assert KnowledgeDistillation()(teacher + 5, teacher).abs() < 1e-12


def test_a_certain_teacher_gives_no_nan():
    """Probabilities that are 0 in floating point would make log(0) times 0."""
    student = torch.tensor([[0.0, 1.0]], requires_grad=True)
    value = KnowledgeDistillation(temperature=1.0)(student, torch.tensor([[1e4, -1e4]]))
    value.backward()
    assert value.item() == pytest.approx(math.log(1 + math.e))
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_temperatures_are_refused(temperature):
    """At 0 or infinity the softmax is not a number or carries nothing."""
    with pytest.raises(ValueError, match="temperature must be positive"):
        KnowledgeDistillation(temperature=temperature)


def test_one_class_is_refused():
    """The softmax of one class is always 1: the loss would be 0, and a run would learn nothing without a word."""
    with pytest.raises(ValueError, match="at least 2 classes"):
        KnowledgeDistillation()(torch.zeros(3, 1), torch.zeros(3, 1))


def test_settings_are_shown():
    """A checkpoint compares this text to tell whether a resumed run has the same objective."""
    shown = repr(KnowledgeDistillation(temperature=3.0, temperature_squared=False))
    assert shown == "KnowledgeDistillation(temperature=3.0, temperature_squared=False)"
