import math

import pytest
import torch

from hf_abkd.objectives import KnowledgeDistillation, MultiLevelLogitDistillation


def logits(samples=5, classes=4, scale=3.0):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(samples, classes, generator=generator, dtype=torch.float64) * scale for _ in range(2)]


def alike(rows):
    """The product of every two lists of numbers."""
    return [sum(a * b for a, b in zip(one, other, strict=True)) for one in rows for other in rows]


def by_hand(student, teacher, temperatures, instance_weight, batch_weight, class_weight):
    """The paper's three parts, one probability and one product after the other."""
    total = 0.0
    for temperature in temperatures:
        both = []
        for logits_of_one in (student.tolist(), teacher.tolist()):
            powers = [[math.exp(value / temperature) for value in row] for row in logits_of_one]
            both.append([[power / sum(row) for power in row] for row in powers])
        ours, theirs = both
        for q, p in zip(ours, theirs, strict=True):
            divergence = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
            total += instance_weight * temperature**2 * divergence / len(ours)
        for weight, q, p in (
            (batch_weight, ours, theirs),
            (class_weight, [*zip(*ours, strict=True)], [*zip(*theirs, strict=True)]),
        ):
            total += weight * sum((a - b) ** 2 for a, b in zip(alike(q), alike(p), strict=True)) / len(q)
    return total


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (1.0, 0.0, 0.0), (0.0, 2.0, 0.0), (0.0, 0.0, 0.5)])
def test_value_is_that_of_the_paper(weights):
    """Each part alone and all together: divided by the wrong size, one would count for nothing or for all."""
    student, teacher = logits(samples=6)
    names = ("instance_weight", "batch_weight", "class_weight")
    settings = {"temperatures": (2.0, 6.0), **dict(zip(names, weights, strict=True))}
    value = MultiLevelLogitDistillation(**settings)(student, teacher)
    assert value.item() == pytest.approx(by_hand(student, teacher, **settings), rel=1e-9)


def test_values_at_all_temperatures_are_added():
    """A mean in the place of the sum is a fifth of what is published."""
    student, teacher = logits()
    values = [MultiLevelLogitDistillation(temperatures=[each])(student, teacher) for each in (2, 3, 4, 5, 6)]
    torch.testing.assert_close(MultiLevelLogitDistillation()(student, teacher), torch.stack(values).sum())


def test_its_first_part_is_knowledge_distillation():
    """A user who changes from the one to the other keeps the weight."""
    student, teacher = logits()
    alone = MultiLevelLogitDistillation(temperatures=[4.0], batch_weight=0, class_weight=0)
    torch.testing.assert_close(alone(student, teacher), KnowledgeDistillation(temperature=4.0)(student, teacher))


def test_the_order_of_samples_and_of_classes_does_not_matter():
    """Pairs are compared, whichever comes first."""
    student, teacher = logits()
    value = MultiLevelLogitDistillation()(student, teacher)
    samples, classes = torch.tensor([3, 0, 4, 1, 2]), torch.tensor([2, 0, 3, 1])
    moved = [tensor[samples][:, classes] for tensor in (student, teacher)]
    torch.testing.assert_close(MultiLevelLogitDistillation()(*moved), value)
    # The two matrices alone do not tell samples that changed places in both models from those that did in one.
    assert MultiLevelLogitDistillation()(student[samples], teacher) != value


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperatures": []}, "temperatures must be positive numbers, at least one, got"),
        ({"temperatures": 4.0}, "temperatures must be positive numbers, at least one, got 4.0"),
        ({"temperatures": [4.0, 0.0]}, "each of temperatures must be positive and finite, got 0"),
        ({"instance_weight": -1.0}, "instance_weight must be finite and not negative, got -1"),
        ({"batch_weight": -1.0}, "batch_weight must be finite and not negative, got -1"),
        ({"class_weight": math.inf}, "class_weight must be finite and not negative, got inf"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    """They would train away from the teacher, or nothing at all."""
    with pytest.raises(ValueError, match=message):
        MultiLevelLogitDistillation(**settings)


def test_one_class_is_refused():
    """Its probability is 1 whatever the logit."""
    student, teacher = logits(classes=1)
    with pytest.raises(ValueError, match="MultiLevelLogitDistillation needs at least 2 classes"):
        MultiLevelLogitDistillation()(student, teacher)
