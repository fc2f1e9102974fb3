import math

import pytest
import torch

from hf_abkd.objectives import CrossEntropy, KnowledgeDistillation, TeacherFreeRegularization

LABELS = torch.tensor([0, 3, 1, 2, 3])


def logits(samples=5, classes=4, scale=3.0):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(samples, classes, generator=generator, dtype=torch.float64) * scale


def by_hand(student, labels, correct_probability, temperature):
    """The paper's formula, one probability after the other."""
    total = 0.0
    for row, label in zip(student.tolist(), labels.tolist(), strict=True):
        if label == -100:
            continue
        designed = [(1 - correct_probability) / (len(row) - 1)] * len(row)
        designed[label] = correct_probability
        theirs = [probability ** (1 / temperature) for probability in designed]
        ours = [math.exp(value / temperature) for value in row]
        for p, q in zip(theirs, ours, strict=True):
            total += p / sum(theirs) * math.log((p / sum(theirs)) / (q / sum(ours)))
    return total / sum(label != -100 for label in labels.tolist())


@pytest.mark.parametrize(("correct_probability", "temperature"), [(0.99, 20.0), (0.9, 40.0), (0.5, 1.0)])
def test_value_is_that_of_the_paper(correct_probability, temperature):
    """A student that is not softened, or probabilities taken for logits, is another method."""
    settings = {"correct_probability": correct_probability, "temperature": temperature}
    value = TeacherFreeRegularization(**settings)(logits(), LABELS)
    assert value.item() == pytest.approx(by_hand(logits(), LABELS, **settings), rel=1e-9)


def test_it_is_distillation_from_a_teacher_with_these_probabilities():
    """Whoever writes the virtual teacher's logits down gets the same by KD without the squared temperature."""
    designed = torch.full((5, 4), 0.1 / 3, dtype=torch.float64).scatter(1, LABELS[:, None], 0.9)
    teacher = KnowledgeDistillation(temperature=20.0, temperature_squared=False)
    value = TeacherFreeRegularization(correct_probability=0.9)(logits(), LABELS)
    torch.testing.assert_close(value, teacher(logits(), designed.log() + 2))
    assert TeacherFreeRegularization(correct_probability=0.9)(designed.log(), LABELS).item() == pytest.approx(0.0)


def test_at_temperature_1_it_trains_as_label_smoothing_does():
    """Of K classes, a smoothing of s gives the label 1 - s + s / K."""
    student, smoothing = logits().requires_grad_(), 0.2
    alike = TeacherFreeRegularization(correct_probability=1 - smoothing + smoothing / 4, temperature=1.0)
    values = alike(student, LABELS), CrossEntropy(label_smoothing=smoothing)(student, LABELS)
    torch.testing.assert_close(*(torch.autograd.grad(value, student)[0] for value in values))


def test_samples_without_a_label_count_as_nothing():
    """In a batch of two domains one has no labels: it must neither be learnt nor change what the other is worth."""
    labels = torch.tensor([0, -100, 1, -100, 3])
    student = logits().requires_grad_()
    value = TeacherFreeRegularization()(student, labels)
    assert value.item() == pytest.approx(by_hand(logits(), labels, 0.99, 20.0), rel=1e-9)
    value.backward()
    assert student.grad[[1, 3]].abs().sum() == 0 and (student.grad[[0, 2, 4]].abs().sum(1) > 0).all()
    assert TeacherFreeRegularization()(student, torch.full((5,), -100)).item() == 0


def test_what_makes_no_distribution_is_refused():
    """A probability of 1 leaves nothing to the others, and soft labels would be rounded."""
    for probability in (0.0, 1.0, 1.5):
        with pytest.raises(ValueError, match="correct_probability must be in"):
            TeacherFreeRegularization(correct_probability=probability)
    with pytest.raises(ValueError, match="temperature must be positive and finite, got 0"):
        TeacherFreeRegularization(temperature=0)
    with pytest.raises(TypeError, match=r"TeacherFreeRegularization needs one integer class per sample, shape \(5,\)"):
        TeacherFreeRegularization()(logits(), torch.zeros(5, 4))
    with pytest.raises(ValueError, match="TeacherFreeRegularization needs at least 2 classes"):
        TeacherFreeRegularization()(logits(classes=1), torch.zeros(5, dtype=torch.long))
