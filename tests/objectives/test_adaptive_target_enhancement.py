import math

import pytest
import torch

from hf_abkd.layers.connection import Side
from hf_abkd.objectives import AdaptiveTargetEnhancement, CrossEntropy, KnowledgeDistillation
from hf_abkd.stages.term import Term
from hf_abkd.training.terms.run_term import RunTerm

LABELS = torch.tensor([0, 3, 1, 2, 3])


def logits(samples=5, classes=4, scale=3.0):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(samples, classes, generator=generator, dtype=torch.float64) * scale for _ in range(2)]


def by_hand(student, teacher, labels, gamma):
    """The paper's formula, one class after the other."""
    total = 0.0
    for ours, theirs, label in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True):
        if label == -100:
            continue
        q, p = ([math.exp(value) / sum(math.exp(other) for other in row) for value in row] for row in (ours, theirs))
        for index in range(len(p)):
            weight = (1 + p[index]) ** gamma if index == label else p[index]
            total -= weight * math.log(q[index])
    return total / sum(label != -100 for label in labels.tolist())


@pytest.mark.parametrize("gamma", [0.0, 1.0, 1.5])
def test_value_is_that_of_the_paper(gamma):
    """With the probabilities of the other classes raised too, or the label taken out, it is another method."""
    student, teacher = logits()
    value = AdaptiveTargetEnhancement(gamma=gamma)(student, teacher, labels=LABELS)
    assert value.item() == pytest.approx(by_hand(student, teacher, LABELS, gamma), rel=1e-12)


def test_with_gamma_1_it_is_label_and_teacher_together():
    """That is what the paper starts from: nothing but how much the label counts is changed by gamma."""
    student, teacher = logits()
    student.requires_grad_()
    value = AdaptiveTargetEnhancement()(student, teacher, labels=LABELS)
    plain = CrossEntropy()(student, LABELS) + KnowledgeDistillation(temperature=1.0)(student, teacher)
    entropy = -(teacher.softmax(1) * teacher.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(value, plain + entropy)
    torch.testing.assert_close(*(torch.autograd.grad(each, student)[0] for each in (value, plain)))


def test_the_label_counts_for_more_where_the_teacher_is_sure_of_it():
    """Where it is not, gamma changes next to nothing."""
    student = torch.zeros(1, 3)
    label = torch.tensor([0])
    more = {}
    for name, teacher in {"sure": [8.0, 0.0, 0.0], "wrong": [-8.0, 0.0, 0.0]}.items():
        values = [
            AdaptiveTargetEnhancement(gamma=g)(student, torch.tensor([teacher]), labels=label) for g in (1.0, 2.0)
        ]
        more[name] = (values[1] - values[0]).item()
    # (1 + 1)^2 - (1 + 1) times log 3, and nothing.
    assert more["sure"] == pytest.approx(2 * math.log(3), abs=0.01) and more["wrong"] == pytest.approx(0.0, abs=0.01)


def test_samples_without_a_label_count_as_nothing():
    """In a batch of two domains one has no labels: it must neither be learnt nor change what the other is worth."""
    student, teacher = logits()
    student.requires_grad_()
    labels = torch.tensor([0, -100, 1, -100, 3])
    objective = AdaptiveTargetEnhancement(gamma=1.5)
    value = objective(student, teacher, labels=labels)
    assert value.item() == pytest.approx(by_hand(student.detach(), teacher, labels, 1.5), rel=1e-12)
    value.backward()
    assert student.grad[[1, 3]].abs().sum() == 0 and (student.grad[[0, 2, 4]].abs().sum(1) > 0).all()
    assert objective(student, teacher, labels=torch.full((5,), -100)).item() == 0


def test_what_is_no_label_or_setting_is_refused():
    """Soft labels would be rounded, and below 0 the label would count for less the surer the teacher is."""
    student, teacher = logits()
    with pytest.raises(ValueError, match="gamma must be finite and not negative, got -1"):
        AdaptiveTargetEnhancement(gamma=-1.0)
    with pytest.raises(TypeError, match=r"AdaptiveTargetEnhancement needs one integer class per sample, shape \(5,\)"):
        AdaptiveTargetEnhancement()(student, teacher, labels=torch.zeros(5, 4))
    with pytest.raises(ValueError, match="AdaptiveTargetEnhancement needs at least 2 classes"):
        AdaptiveTargetEnhancement()(student[:, :1], teacher[:, :1], labels=torch.zeros(5, dtype=torch.long))


def test_an_exit_is_made_for_a_layer_and_none_for_logits():
    """An exit learns what the logits learn, of the classes that both models have, in one order."""
    objective = AdaptiveTargetEnhancement(exit_blocks=2)
    assert objective.connect([Side((2, 3))], [Side((2, 3))], "auto").description == "identity"
    term = RunTerm(Term(objective, student="layer", teacher="logits"))
    term.connect_classes([0, 1], [2, 0])
    term.connect([Side((2, 8, 8, 8))], [Side((2, 3))])
    assert term.connector is not None and term.layer_pairs == ()
    maps, logits, labels = torch.rand(2, 8, 8, 8), torch.rand(2, 3), torch.tensor([1, 2])
    exits = term.adapt(maps)
    assert exits.shape == (2, 2)
    value = term(exits, **term.formed({"teacher": logits, "labels": labels}))
    # The third class of the student is none of the teacher's.
    expected = objective(exits[:1], logits[:1, [2, 0]], labels=labels[:1])
    torch.testing.assert_close(value, expected)
