import math

import pytest
import torch
from torch.nn import functional

from hf_abkd.objectives import KnowledgeDistillation, LogitStandardization


def logits(samples=5, classes=4, scale=3.0):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(samples, classes, generator=generator, dtype=torch.float64) * scale for _ in range(2)]


def by_hand(student, teacher, temperature):
    """The paper's two algorithms, one logit after the other."""
    total = 0.0
    for rows in zip(student.tolist(), teacher.tolist(), strict=True):
        softened = []
        for row in rows:
            mean = sum(row) / len(row)
            deviation = math.sqrt(sum((value - mean) ** 2 for value in row) / len(row))
            powers = [math.exp((value - mean) / deviation / temperature) for value in row]
            softened.append([power / sum(powers) for power in powers])
        total += sum(p * math.log(p / q) for q, p in zip(*softened, strict=True))
    return temperature**2 * total / len(student)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.0])
def test_value_is_that_of_the_paper(temperature):
    """Over K - 1 in place of K, or without the squared temperature, it is another method."""
    student, teacher = logits()
    value = LogitStandardization(temperature=temperature)(student, teacher)
    assert value.item() == pytest.approx(by_hand(student, teacher, temperature), rel=1e-12)


def test_size_and_shift_of_either_row_change_nothing():
    """That is what it is for: a student of small logits can match a teacher of large ones."""
    student, teacher = logits()
    sizes = torch.tensor([[0.01], [0.5], [1.0], [7.0], [100.0]], dtype=torch.float64)
    value = LogitStandardization()(student, teacher)
    assert value > 0.01
    torch.testing.assert_close(LogitStandardization()(student * sizes - 3, teacher / sizes + sizes), value)
    line = LogitStandardization()(teacher * sizes + 5, teacher)
    assert line.item() == pytest.approx(0.0, abs=1e-12)


def test_it_is_knowledge_distillation_of_standardised_logits():
    """Rows of mean 0 and variance 1 are left as they are."""
    standard = torch.tensor([[1.0, -1.0, 1.0, -1.0], [-1.0, -1.0, 1.0, 1.0]])
    teacher = standard.flip(0)
    expected = KnowledgeDistillation(temperature=2.0)(standard, teacher)
    torch.testing.assert_close(LogitStandardization(temperature=2.0)(standard, teacher), expected)


@pytest.mark.parametrize("multiplier", [2.0, 3.0])
def test_spherical_distillation_is_it_with_other_settings(multiplier):
    """The docstring says by which settings a user of that method gets it."""
    student, teacher = logits()
    ours, theirs = (
        functional.layer_norm(each, each.shape[1:], eps=0.0) * multiplier / 4.0 for each in (student, teacher)
    )
    published = 4.0**2 * functional.kl_div(ours.log_softmax(1), theirs.softmax(1), reduction="batchmean")
    value = multiplier**2 * LogitStandardization(temperature=4.0 / multiplier)(student, teacher)
    torch.testing.assert_close(value, published)


@pytest.mark.parametrize("level", [0.0, 0.1, -1e4])
def test_equal_logits_have_a_gradient_of_ordinary_size(level):
    """A head of zeros gives them in the first step: over their spread it is NaN, or beyond all bounds."""
    _, teacher = logits()
    student = torch.full_like(teacher, level, dtype=torch.float32, requires_grad=True)
    value = LogitStandardization()(student, teacher.float())
    value.backward()
    assert value > 0.01 and 1e-3 < student.grad.abs().max() < 10
    flat = LogitStandardization()(teacher.float(), torch.full_like(teacher, level, dtype=torch.float32))
    assert flat.isfinite() and flat > 0.01


def test_what_cannot_be_taught_is_refused():
    """A temperature of 0 divides by it, and one class has no order."""
    with pytest.raises(ValueError, match="temperature must be positive and finite, got 0"):
        LogitStandardization(temperature=0)
    student, teacher = logits(classes=1)
    with pytest.raises(ValueError, match="LogitStandardization needs at least 2 classes"):
        LogitStandardization()(student, teacher)
