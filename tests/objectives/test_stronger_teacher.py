import math

import pytest
import torch

from hf_abkd.objectives import StrongerTeacher


def logits(samples=5, classes=4, scale=3.0):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(samples, classes, generator=generator, dtype=torch.float64) * scale for _ in range(2)]


def correlation(first, second):
    """Pearson's, with the small number of the published code."""
    means = [sum(values) / len(values) for values in (first, second)]
    together = sum((a - means[0]) * (b - means[1]) for a, b in zip(first, second, strict=True))
    sizes = [math.sqrt(sum((a - mean) ** 2 for a in one)) for one, mean in zip((first, second), means, strict=True)]
    return together / (sizes[0] * sizes[1] + 1e-8)


def by_hand(student, teacher, temperature, inter_class_weight, intra_class_weight):
    """The paper's formula, one row and one column after the other."""
    ours, theirs = ([], [])
    for rows, found in ((student.tolist(), ours), (teacher.tolist(), theirs)):
        for row in rows:
            powers = [math.exp(value / temperature) for value in row]
            found.append([power / sum(powers) for power in powers])
    rows = [correlation(p, q) for p, q in zip(ours, theirs, strict=True)]
    columns = [correlation(p, q) for p, q in zip(zip(*ours, strict=True), zip(*theirs, strict=True), strict=True)]
    inter, intra = (1 - sum(found) / len(found) for found in (rows, columns))
    return inter_class_weight * inter + intra_class_weight * intra


@pytest.mark.parametrize("weights", [(1.0, 1.0), (2.0, 0.5), (0.0, 1.0)])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_value_is_that_of_the_paper(temperature, weights):
    """Rows with the weight of columns, or a squared temperature, is another method."""
    student, teacher = logits()
    settings = dict(zip(("inter_class_weight", "intra_class_weight"), weights, strict=True), temperature=temperature)
    value = StrongerTeacher(**settings)(student, teacher)
    assert value.item() == pytest.approx(by_hand(student, teacher, **settings), rel=1e-9)


def test_a_student_that_is_less_sure_has_nothing_to_learn():
    """That is what it is for: the divergence of the two would be far from 0."""
    _, teacher = logits()
    sure = teacher.softmax(1)
    less_sure = (0.2 * sure + 0.8 / sure.shape[1]).log()
    value = StrongerTeacher()(less_sure + 3, teacher)
    assert value.item() == pytest.approx(0.0, abs=1e-5)
    # What differs from sample to sample is no relation that holds over the samples of a class.
    share = torch.linspace(0.1, 1.0, 5, dtype=torch.float64)[:, None]
    mixed = (share * sure + (1 - share) / sure.shape[1]).log()
    assert StrongerTeacher(intra_class_weight=0.0)(mixed, teacher).item() == pytest.approx(0.0, abs=1e-5)
    assert StrongerTeacher()(mixed, teacher) > 0.01


def test_one_sample_is_compared_over_its_classes_alone():
    """A column of one number has no correlation, and would add a number that says nothing."""
    student, teacher = (tensor[:1] for tensor in logits())
    value = StrongerTeacher()(student, teacher)
    assert value.item() == StrongerTeacher(intra_class_weight=0.0)(student, teacher).item() > 0


def test_probabilities_without_any_spread_give_finite_gradients():
    """A head of zeros gives equal probabilities in the first step, and a sure teacher classes that are always 0."""
    student = torch.zeros(3, 4, requires_grad=True)
    teacher = torch.tensor([[900.0, 0.0, -900.0, -900.0]] * 3)
    for one, other in ((student, teacher), (teacher.clone().requires_grad_(), torch.zeros(3, 4))):
        value = StrongerTeacher()(one, other)
        (gradient,) = torch.autograd.grad(value, one, allow_unused=True)
        assert value.item() == pytest.approx(2.0) and gradient.isfinite().all()


@pytest.mark.parametrize("setting", ["temperature", "inter_class_weight", "intra_class_weight"])
def test_impossible_settings_are_refused(setting):
    """They would train away from the teacher, or make every weight a NaN."""
    with pytest.raises(ValueError, match=f"{setting} must be .*, got -1"):
        StrongerTeacher(**{setting: -1.0})


def test_one_class_is_refused():
    """It has no relation to any other."""
    student, teacher = logits(classes=1)
    with pytest.raises(ValueError, match="StrongerTeacher needs at least 2 classes"):
        StrongerTeacher()(student, teacher)
