import math

import pytest
import torch

from hf_abkd.objectives import CrossEntropy


def make_logits():
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("smoothing", [None, 0.0, 0.1, 0.9])
def test_equals_a_loop_over_the_samples(smoothing):
    """Smoothing that is ignored, or counted twice, changes every accuracy a little and no test of shapes."""
    logits, labels = make_logits(), torch.tensor([0, 2, 1, 1])
    expected = 0.0
    for row, label in zip(logits, labels, strict=True):
        total = math.log(sum(math.exp(value) for value in row))
        share = smoothing or 0.0
        for k, value in enumerate(row):
            truth = (1 - share) * (k == label) + share / len(row)
            expected += truth * (total - float(value)) / len(logits)
    assert CrossEntropy(label_smoothing=smoothing)(logits, labels).item() == pytest.approx(expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_images_without_labels_neither_count_nor_weigh(smoothing):
    """Counted, 20 of them for each label would divide what the labels teach by 21, whatever weight the term has."""
    logits, objective = make_logits().requires_grad_(), CrossEntropy(label_smoothing=smoothing)
    value = objective(logits, torch.tensor([0, -100, 2, -100]))
    torch.testing.assert_close(value, objective(logits[[0, 2]], torch.tensor([0, 2])))
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient[[1, 3]].abs().sum() == 0 and (gradient[[0, 2]].abs().sum(1) > 0).all()
    # Nothing to learn is no NaN, and every process must have something to go back through.
    nothing = objective(logits, torch.full((4,), -100))
    assert nothing.item() == 0 and torch.autograd.grad(nothing, logits)[0].abs().sum() == 0


@pytest.mark.parametrize(
    "labels", [torch.zeros(4, 3), torch.zeros(4), torch.zeros(4, 1, dtype=torch.long), torch.tensor(1)]
)
def test_labels_that_are_no_classes_are_refused(labels):
    """Multi-label targets would be taken for class probabilities, without an error."""
    with pytest.raises(TypeError, match=r"one integer class per sample, shape \(4,\)"):
        CrossEntropy()(make_logits(), labels)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
def test_impossible_smoothing_is_refused(smoothing):
    """At 1 nothing of the label is left."""
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\)"):
        CrossEntropy(label_smoothing=smoothing)


def test_settings_are_shown():
    """A checkpoint compares this text to tell whether a resumed run has the same objective."""
    assert repr(CrossEntropy(label_smoothing=0.1)) == "CrossEntropy(label_smoothing=0.1)"
