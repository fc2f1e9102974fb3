import math

import pytest
import torch

from hf_abkd.objectives import DecoupledKnowledgeDistillation, KnowledgeDistillation


def logits(samples=5, classes=4, seed=0, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(samples, classes, generator=generator, dtype=torch.float64) * scale for _ in range(2)]


def by_hand(student, teacher, labels, temperature, target_weight, other_weight):
    """The paper's formula, one probability after the other."""
    total = 0.0
    for ours, theirs, label in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True):
        if label == -100:
            continue
        p, q = ([math.exp(value / temperature) for value in row] for row in (theirs, ours))
        of_target = 0.0
        for one, other in ((p[label], q[label]), (sum(p) - p[label], sum(q) - q[label])):
            of_target += one / sum(p) * math.log((one / sum(p)) / (other / sum(q)))
        of_others = 0.0
        for index in range(len(p)):
            if index != label:
                one, other = p[index] / (sum(p) - p[label]), q[index] / (sum(q) - q[label])
                of_others += one * math.log(one / other)
        total += temperature**2 * (target_weight * of_target + other_weight * of_others)
    return total / sum(label != -100 for label in labels.tolist())


@pytest.mark.parametrize(("temperature", "target_weight", "other_weight"), [(4.0, 1.0, 8.0), (1.0, 0.5, 0.0)])
def test_value_is_that_of_the_paper(temperature, target_weight, other_weight):
    """A part with the weight of the other, or without the squared temperature, is another method."""
    student, teacher = logits()
    labels = torch.tensor([0, 3, 1, 2, 3])
    settings = {"temperature": temperature, "target_weight": target_weight, "other_weight": other_weight}
    value = DecoupledKnowledgeDistillation(**settings)(student, teacher, labels=labels)
    assert value.item() == pytest.approx(by_hand(student, teacher, labels, **settings), rel=1e-12)


def test_a_known_number():
    """Worked out with a pocket calculator: p_T = (1/2, 1/4, 1/4), p_S = (1/4, 1/4, 1/2), of the first class."""
    teacher, student = (torch.tensor([row]).log() for row in ([0.5, 0.25, 0.25], [0.25, 0.25, 0.5]))
    parts = {"target_weight": 0.0, "other_weight": 0.0, "temperature": 1.0}
    label = torch.tensor([0])
    # 1/2 log(1/2 / 1/4) + 1/2 log(1/2 / 3/4), and 1/2 log(1/2 / 1/3) + 1/2 log(1/2 / 2/3).
    first = DecoupledKnowledgeDistillation(**{**parts, "target_weight": 1.0})(student, teacher, labels=label)
    second = DecoupledKnowledgeDistillation(**{**parts, "other_weight": 1.0})(student, teacher, labels=label)
    assert first.item() == pytest.approx(0.143841, abs=1e-6) and second.item() == pytest.approx(0.058892, abs=1e-6)


def test_both_parts_together_are_knowledge_distillation():
    """With the probability of the other classes as its weight, the second part makes up the undivided divergence."""
    student, teacher = (tensor[:1] for tensor in logits())
    label, temperature = torch.tensor([2]), 3.0
    left_over = 1 - (teacher / temperature).softmax(1)[0, 2].item()
    decoupled = DecoupledKnowledgeDistillation(temperature=temperature, other_weight=left_over)
    expected = KnowledgeDistillation(temperature=temperature)(student, teacher)
    torch.testing.assert_close(decoupled(student, teacher, labels=label), expected)


def test_equal_logits_are_worth_nothing_whatever_is_added_to_them():
    """A value that equal models do not reach would go on moving the student."""
    student, _ = logits()
    labels = torch.tensor([0, 3, 1, 2, 3])
    value = DecoupledKnowledgeDistillation()(student, student + 5.0, labels=labels)
    assert value.item() == pytest.approx(0.0, abs=1e-12)


def test_samples_without_a_label_count_as_nothing():
    """In a batch of two domains one has no labels: it must neither be learnt nor change what the other is worth."""
    student, teacher = logits()
    student.requires_grad_()
    labels = torch.tensor([0, -100, 1, -100, 3])
    objective = DecoupledKnowledgeDistillation()
    value = objective(student, teacher, labels=labels)
    assert value.item() == pytest.approx(by_hand(student.detach(), teacher, labels, 4.0, 1.0, 8.0), rel=1e-12)
    value.backward()
    assert student.grad[[1, 3]].abs().sum() == 0 and (student.grad[[0, 2, 4]].abs().sum(1) > 0).all()
    assert objective(student, teacher, labels=torch.full((5,), -100)).item() == 0


def test_a_sure_teacher_gives_finite_numbers():
    """The logarithm of a probability that was rounded to 0 is what makes this loss infinite elsewhere."""
    student = torch.tensor([[0.0, 1.0, 2.0]], requires_grad=True)
    teacher = torch.tensor([[5000.0, 0.0, -5000.0]])
    for label in range(3):
        value = DecoupledKnowledgeDistillation(temperature=1.0)(student, teacher, labels=torch.tensor([label]))
        (gradient,) = torch.autograd.grad(value, student)
        assert value.isfinite() and gradient.isfinite().all() and gradient.abs().sum() > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive and finite, got 0.0"),
        ({"target_weight": -1.0}, "target_weight must be finite and not negative, got -1.0"),
        ({"other_weight": math.inf}, "other_weight must be finite and not negative, got inf"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    """They would train away from the teacher, or make every weight a NaN."""
    with pytest.raises(ValueError, match=message):
        DecoupledKnowledgeDistillation(**settings)


def test_what_is_no_label_is_refused():
    """Soft labels would be rounded, and a class that does not exist would be left out of nothing."""
    student, teacher = logits()
    objective = DecoupledKnowledgeDistillation()
    for labels in (torch.zeros(5), torch.zeros(5, 4, dtype=torch.long), torch.zeros(3, dtype=torch.long)):
        with pytest.raises(TypeError, match=r"one integer class per sample, shape \(5,\)"):
            objective(student, teacher, labels=labels)
    for label in (-1, 4):
        with pytest.raises((RuntimeError, IndexError)):
            objective(student, teacher, labels=torch.full((5,), label))
    with pytest.raises(ValueError, match="needs at least 2 classes"):
        objective(student[:, :1], teacher[:, :1], labels=torch.zeros(5, dtype=torch.long))
